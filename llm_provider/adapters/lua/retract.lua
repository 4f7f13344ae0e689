#!lua flags=allow-oom
-- KEYS record open waiting over totals    ARGV id keep_ms
-- -> 1 when no worker will ever find the request, 0 when one has it already
local state = redis.call('HGET', KEYS[1], 'state')
if state and state ~= 'waiting' then return 0 end
-- Its accept may still be on the way here, and is refused when it comes.
redis.call('SET', KEYS[4], 1, 'PX', ARGV[2])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if redis.call('DEL', KEYS[1]) == 1 then redis.call('HINCRBY', KEYS[5], 'retracted', 1) end
return 1
