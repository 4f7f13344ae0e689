#!lua flags=no-writes
-- KEYS breaker
-- -> {state, failures, ms until it may be probed}
local b = redis.call('HMGET', KEYS[1], 'until', 'failures')
if not b[1] then return {'closed', number(b[2]), 0} end
local left = number(b[1]) - now_ms()
return {left > 0 and 'open' or 'half_open', number(b[2]), math.max(0, math.ceil(left))}
