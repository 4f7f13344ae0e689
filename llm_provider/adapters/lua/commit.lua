#!lua flags=allow-oom
-- KEYS record open waiting pace totals quarantine over
-- ARGV id outcome kind window_ms request('': unknown) restorable_until_ms
-- -> {'stored', request} | {'restored', request} | {'adopted', request, outcome} | {'gone'} | {'over'}
local record = KEYS[1]
local now = now_ms()
local r = redis.call('HMGET', record, 'request', 'outcome', 'state')
local was_gone = not r[1] and ARGV[5] ~= ''
if was_gone and redis.call('EXISTS', KEYS[7]) == 1 then return {'over'} end
if was_gone and wall_ms() < number(ARGV[6]) then
  -- Redis has forgotten it. Nobody has been told its outcome: a record that was delivered lives, or is noted as over,
  -- for as long as this may come.
  r[1] = ARGV[5]
  redis.call('HSET', record, 'request', r[1], 'accepted', now, 'deadline', number(ARGV[6]) + ahead_ms())
  if redis.call('ZADD', KEYS[2], 'NX', now, ARGV[1]) == 1 then redis.call('HINCRBY', KEYS[5], 'accepted', 1) end
  redis.call('HINCRBY', KEYS[5], 'restored', 1)
elseif not r[1] then
  if was_gone then redis.call('HINCRBY', KEYS[5], 'lost', 1) end
  return {'gone'}
end
-- The same bytes again are a commit repeated after a lost reply: still the caller's own.
if r[2] == ARGV[2] and r[3] == 'decided' then
  redis.call('ZADD', KEYS[2], 'XX', now + number(ARGV[4]), ARGV[1])
  return {'stored', r[1]}
end
if r[2] then return {'adopted', r[1], r[2]} end
if r[3] == 'delivered' then return {'over'} end

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
return {was_gone and 'restored' or 'stored', r[1]}
