#!lua flags=allow-oom
-- KEYS record open dead    ARGV id attempted(0|1) refusal give_up_after_ms wait_ms+
-- -> 'gone' | 'postponed' | 'dead'
local record = KEYS[1]
if redis.call('HGET', record, 'state') ~= 'decided' then return 'gone' end
local now = now_ms()
local attempts = noted(redis.call('HGET', record, 'attempts')) + ARGV[2]
redis.call('HSET', record, 'attempts', attempts)
if ARGV[3] ~= '' then
  -- Only a refusal counts towards giving up, and only one that lasts: a topic may be about to be created.
  redis.call('HSETNX', record, 'refused', now)
  local refused = noted(redis.call('HGET', record, 'refused'))
  if now - refused >= number(ARGV[4]) then
    redis.call('HSET', record, 'state', 'dead', 'buried', wall_ms(), 'refused', refused - ahead_ms(), 'reason', ARGV[3])
    redis.call('ZREM', KEYS[2], ARGV[1])
    redis.call('ZADD', KEYS[3], now, ARGV[1])
    return 'dead'
  end
else
  redis.call('HDEL', record, 'refused')
end
-- Without an attempt of its own a request waits the first step: it is the topic's gate that backs off.
local step = ARGV[2] == '1' and math.min(attempts, #ARGV - 4) or 1
redis.call('ZADD', KEYS[2], 'XX', now + number(ARGV[4 + step]), ARGV[1])
return 'postponed'
