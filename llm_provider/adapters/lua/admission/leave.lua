#!lua flags=allow-oom
-- KEYS breaker slots line due asleep invited flow unheard ticket paced    ARGV call_id max_concurrent(0: any number)
-- -> who may come now ...
local p = provider_keys()
leave_line(p, ARGV[1])
redis.call('ZREM', p.slots, ARGV[1])
redis.call('DEL', KEYS[9])
redis.call('ZREM', KEYS[10], ARGV[1])
if redis.call('HGET', p.breaker, 'probe') == ARGV[1] then redis.call('HDEL', p.breaker, 'probe', 'probe_until') end
return invite_next(p, now_ms(), number(ARGV[2]), {})
