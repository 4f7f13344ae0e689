#!lua flags=allow-oom
-- KEYS record open dead quarantine    ARGV id
-- -> 1 when its event will be published once more, 0 when there is none to publish
local r = redis.call('HMGET', KEYS[1], 'state', 'outcome')
if redis.call('ZREM', KEYS[4], ARGV[1]) == 1 then
  -- Repaired, it is looked at again; it has left the line of those waiting.
  if r[1] == 'waiting' then redis.call('HSET', KEYS[1], 'state', 'suspended', 'due', now_ms()) end
  redis.call('HDEL', KEYS[1], 'fault')
  redis.call('ZADD', KEYS[2], now_ms(), ARGV[1])
  return 1
end
if not r[2] or (r[1] ~= 'dead' and r[1] ~= 'delivered') then return 0 end
redis.call('HSET', KEYS[1], 'state', 'decided')
-- What was delivered or dropped before has been counted.
if r[1] == 'delivered' or not redis.call('ZSCORE', KEYS[3], ARGV[1]) then
  redis.call('HSET', KEYS[1], 'reopened', 1)
end
redis.call('HDEL', KEYS[1], 'refused', 'attempts', 'buried', 'reason', 'delivered')
redis.call('PERSIST', KEYS[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[2], now_ms(), ARGV[1])
return 1
