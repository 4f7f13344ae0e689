#!lua flags=allow-oom
-- KEYS breaker slots line due asleep offers flow ticket    ARGV call_id max_concurrent(0: any number)
-- -> who may come now ...
local p = provider_keys()
leave_line(p, ARGV[1])
redis.call('ZREM', p.slots, ARGV[1])
redis.call('DEL', KEYS[8])
if redis.call('HGET', p.breaker, 'probe') == ARGV[1] then redis.call('HDEL', p.breaker, 'probe', 'probe_until') end
return call_next(p, now_ms(), number(ARGV[2]))
