#!lua flags=no-writes
-- KEYS slots asleep held
-- -> {running, waiting, (model, ms until its hold ends)*}
local after_now = '(' .. string.format('%.3f', now_ms())
local load = {redis.call('ZCOUNT', KEYS[1], after_now, '+inf'), redis.call('ZCOUNT', KEYS[2], after_now, '+inf')}
local held = redis.call('ZRANGEBYSCORE', KEYS[3], after_now, '+inf', 'WITHSCORES')
for i = 1, #held, 2 do
  load[#load + 1] = held[i]
  load[#load + 1] = math.ceil(held[i + 1] - now_ms())
end
return load
