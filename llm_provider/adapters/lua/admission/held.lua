#!lua flags=no-writes
-- KEYS held
-- -> {model, ms until its hold ends}*
local now, found = now_ms(), {}
local held = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf', 'WITHSCORES')
for i = 1, #held, 2 do
  found[#found + 1] = held[i]
  found[#found + 1] = math.ceil(held[i + 1] - now)
end
return found
