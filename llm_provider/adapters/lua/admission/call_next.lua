#!lua flags=allow-oom
-- KEYS breaker slots line due asleep offers flow    ARGV max_concurrent(0: any number)
-- -> who may come now ...
return call_next(provider_keys(), now_ms(), number(ARGV[1]))
