-- Put before every script. Times are milliseconds of Redis's own clock, so that no host's clock matters; their
-- fraction tells two callers of the same millisecond apart.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + t[2] / 1000
end

local function number(value)
  return tonumber(value or 0)
end

-- A model's account of requests, or of tokens: when what has been taken from it will have flowed back. A second's
-- worth may be taken at once, and one request always.
local function account(field, per_minute, at)
  return {field = field, interval = 60000 / per_minute, burst = math.max(1, per_minute / 60), at = at}
end

-- What a model is held to, and until when its vendor asked to leave it alone. A rate of 0 is none.
local function read_pace(key, now, requests_per_minute, tokens_per_minute)
  local stored = redis.call('HMGET', key, 'requests', 'tokens', 'hold')
  local pace = {key = key, now = now, hold = number(stored[3]), latest = 0}
  for i = 1, 3 do pace.latest = math.max(pace.latest, number(stored[i])) end
  if requests_per_minute > 0 then
    pace.requests = account('requests', requests_per_minute, math.max(now, number(stored[1])))
  end
  if tokens_per_minute > 0 then
    pace.tokens = account('tokens', tokens_per_minute, math.max(now, number(stored[2])))
  end
  return pace
end

local function write_pace(pace, field, at)
  pace.latest = math.max(pace.latest, at)
  redis.call('HSET', pace.key, field, at)
  redis.call('PEXPIRE', pace.key, math.max(1, math.ceil(pace.latest - pace.now)) + 1000)
end
