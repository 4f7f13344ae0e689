#!lua flags=allow-oom
-- KEYS breaker flow held slowed pace*
-- What waits is invited by the next sweeps, slowly first.
redis.call('DEL', unpack(KEYS))
redis.call('HSET', KEYS[2], 'left', 0)
redis.call('PEXPIRE', KEYS[2], FLOW_KEPT_MS)
