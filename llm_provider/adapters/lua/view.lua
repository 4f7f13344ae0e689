#!lua flags=no-writes
-- KEYS record waiting pace    ARGV id
-- -> {request, state, kind, outcome, deadline, delivered, position, pace} or nil
local r = redis.call('HMGET', KEYS[1], 'request', 'state', 'kind', 'outcome', 'deadline', 'delivered')
if not r[1] then return nil end
local rank = redis.call('ZRANK', KEYS[2], ARGV[1])
return {r[1], r[2], r[3] or '', r[4] or '', noted(r[5]) - ahead_ms(), number(r[6]), rank and rank + 1 or 0,
  tostring(pace_per_minute(KEYS[3], now_ms()))}
