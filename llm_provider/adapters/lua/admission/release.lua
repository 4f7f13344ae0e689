#!lua flags=allow-oom
-- KEYS breaker held pace*
redis.call('DEL', unpack(KEYS))
