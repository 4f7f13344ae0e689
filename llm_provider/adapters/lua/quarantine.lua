#!lua flags=allow-oom
-- KEYS record open waiting quarantine    ARGV id reason
-- -> 1 when it is new there
return set_aside(ARGV[1], KEYS[1], KEYS[2], KEYS[3], KEYS[4], ARGV[2])
