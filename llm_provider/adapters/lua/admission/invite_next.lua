#!lua flags=allow-oom
-- KEYS breaker slots line due asleep invited flow unheard models
-- ARGV max_concurrent(0: any number) pace_prefix paced_prefix
-- -> who may come now ...
local p, models, now = provider_keys(), KEYS[9], now_ms()
local invited = invite_next(p, now, number(ARGV[1]), {})
for _, model in ipairs(redis.call('SMEMBERS', models)) do
  local pace = read_pace(ARGV[2] .. model, now, 0, 0)
  invite_paced(p, now, pace, ARGV[3] .. model, invited)
  if redis.call('EXISTS', ARGV[3] .. model) == 0 then redis.call('SREM', models, model) end
end
return invited
