#!lua flags=allow-oom
-- KEYS breaker held pace*
-- What waits is called by the next sweep.
redis.call('DEL', unpack(KEYS))
