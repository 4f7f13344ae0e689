#!lua flags=allow-oom
-- KEYS record open waiting pace totals quarantine
-- ARGV id outcome kind window_ms
-- -> {'stored', request} | {'adopted', request, outcome} | {'gone'}
local record = KEYS[1]
local now = now_ms()
local r = redis.call('HMGET', record, 'request', 'outcome', 'state')
if not r[1] then return {'gone'} end
-- The same bytes again are a commit repeated after a lost reply: still the caller's own.
if r[2] == ARGV[2] and r[3] == 'decided' then
  redis.call('ZADD', KEYS[2], 'XX', now + number(ARGV[4]), ARGV[1])
  return {'stored', r[1]}
end
if r[2] then return {'adopted', r[1], r[2]} end
if r[3] == 'delivered' then return {'gone'} end

redis.call('HSET', record, 'state', 'decided', 'outcome', ARGV[2], 'kind', ARGV[3], 'decided', now)
redis.call('HDEL', record, 'texts', 'holder', 'lease', 'due', 'progress', 'wait', 'woken', 'fault')
redis.call('ZREM', KEYS[3], ARGV[1])
-- What could not be read is over, since its caller is told.
local only = redis.call('ZREM', KEYS[6], ARGV[1]) == 0 and 'XX' or 'NX'
redis.call('ZADD', KEYS[2], only, now + number(ARGV[4]), ARGV[1])
redis.call('HINCRBY', KEYS[5], ARGV[3], 1)
local minute = math.floor(now / 60000)
redis.call('HINCRBY', KEYS[4], minute, 1)
-- Under a trickle of commits the key never expires; these three are all that one may have left behind.
redis.call('HDEL', KEYS[4], minute - 2, minute - 3, minute - 4)
redis.call('EXPIRE', KEYS[4], 180)
return {'stored', r[1]}
