#!lua flags=allow-oom
-- KEYS record open totals dead over
-- ARGV id retention_ms drop_outcome(0|1) total_name restorable_until_ms request('': as it is)
-- -> 1 when this call noted the delivery
if redis.call('HGET', KEYS[1], 'state') ~= 'decided' then return 0 end
redis.call('HSET', KEYS[1], 'state', 'delivered', 'delivered', wall_ms())
if ARGV[3] == '1' then redis.call('HDEL', KEYS[1], 'outcome') end
-- What nobody needs any more goes: status and a resent event are made of the rest.
if ARGV[6] ~= '' then redis.call('HSET', KEYS[1], 'request', ARGV[6]) end
redis.call('HDEL', KEYS[1], 'turn', 'accepted', 'redispatched', 'passed_over', 'refused', 'company')
-- A commit that comes after the end of the record must not take it for one that Redis has forgotten.
local restorable_ms = number(ARGV[5]) - wall_ms()
if restorable_ms > number(ARGV[2]) then redis.call('SET', KEYS[5], 1, 'PX', math.ceil(restorable_ms)) end
-- A dead letter stays until an operator drops it.
if not redis.call('ZSCORE', KEYS[4], ARGV[1]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
redis.call('ZREM', KEYS[2], ARGV[1])
-- Sent once more for an operator, it has been counted already.
if redis.call('HDEL', KEYS[1], 'reopened') == 0 then redis.call('HINCRBY', KEYS[3], ARGV[4], 1) end
return 1
