-- Put before every script, behind the constants of admission.py. Times are milliseconds of Redis's own clock, so that no
-- host's clock matters; their fraction tells two callers of the same millisecond apart.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + t[2] / 1000
end

local function number(value)
  return tonumber(value or 0)
end

local function keep(key, ms)
  redis.call('PEXPIRE', key, math.max(redis.call('PTTL', key), math.ceil(ms)))
end

-- The pace of a model --------------------------------------------------------------------------------------------------

-- A model's account of requests, or of tokens. `at`: when all turns that were given will have come. `passed`: when what
-- has really been called will have flowed back. `late`: when all who came after their turn will have had another one.
-- A second's worth may be taken at once, and one request always.
local function account(name, per_minute, stored, now)
  return {
    name = name, interval = 60000 / per_minute, burst = math.max(1, per_minute / 60),
    at = math.max(now, number(stored[name .. '_at'])),
    passed = math.max(now, number(stored[name .. '_passed'])),
    late = math.max(now, number(stored[name .. '_late'])),
  }
end

-- What a model is held to: what is configured, what its vendor's refusals taught (`slow`, ms between two calls), and until
-- when its vendor asked to leave it alone. A rate of 0 is none.
local function read_pace(key, now, requests_per_minute, tokens_per_minute)
  local stored, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do stored[flat[i]] = flat[i + 1] end
  local pace = {key = key, now = now, accounts = {}, hold = number(stored.hold), slow = number(stored.slow),
    slow_since = number(stored.slow_since), granted = number(stored.granted),
    learned_passed = math.max(now, number(stored.learned_passed)),
    learned_late = math.max(now, number(stored.learned_late))}
  if requests_per_minute > 0 then
    pace.requests = account('requests', requests_per_minute, stored, now)
    table.insert(pace.accounts, pace.requests)
  end
  if tokens_per_minute > 0 then
    pace.tokens = account('tokens', tokens_per_minute, stored, now)
    table.insert(pace.accounts, pace.tokens)
  end
  return pace
end

-- Kept until it tells nothing any more.
local function write_pace(pace, field, value, kept_until)
  redis.call('HSET', pace.key, field, value)
  keep(pace.key, kept_until - pace.now + 1000)
end

-- The line of a provider -----------------------------------------------------------------------------------------------

-- KEYS in the order in which every script has them.
local function provider_keys()
  return {breaker = KEYS[1], slots = KEYS[2], line = KEYS[3], due = KEYS[4], asleep = KEYS[5], offers = KEYS[6],
    flow = KEYS[7]}
end

-- Who waits is in the line, by when it first asked, until it is admitted: awake, and then `due` says until when it is
-- expected back; or asleep, and then it is called, unless its time, its score in `asleep`, ends before. That it has been
-- called is an offer, for as long as its message may take; when it does not come it is called again.
local function leave_line(p, call)
  redis.call('ZREM', p.line, call)
  redis.call('ZREM', p.due, call)
  redis.call('ZREM', p.asleep, call)
  redis.call('ZREM', p.offers, call)
end

local function forget_absent(p, now)
  for _, key in ipairs({p.due, p.asleep}) do
    for _, call in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 500)) do leave_line(p, call) end
  end
  redis.call('ZREMRANGEBYSCORE', p.slots, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', p.offers, '-inf', now)
end

-- Of the first in the line those who are asleep and have not been called.
local function sleepers(p, among_first, most)
  local found = {}
  if among_first <= 0 then return found end
  for _, call in ipairs(redis.call('ZRANGE', p.line, 0, among_first - 1)) do
    if #found >= most then break end
    if redis.call('ZSCORE', p.asleep, call) and not redis.call('ZSCORE', p.offers, call) then
      table.insert(found, call)
    end
  end
  return found
end

-- Once a circuit has closed, those who wait come slowly first, and twice as many each second.
local function flow(p, now)
  local f = redis.call('HMGET', p.flow, 'second', 'allowed', 'left')
  local second, allowed, left = math.floor(now / 1000), number(f[2]), number(f[3])
  if not f[1] or second > number(f[1]) + 10 then
    allowed, left = FIRST_CALLED, FIRST_CALLED
  elseif second > number(f[1]) then
    allowed = math.min(2 * allowed, MOST_CALLED)
    left = allowed
  end
  local called = sleepers(p, redis.call('ZCARD', p.offers) + left + 20, left)
  redis.call('HSET', p.flow, 'second', second, 'allowed', allowed, 'left', left - #called)
  keep(p.flow, FLOW_KEPT_MS)
  return called
end

-- Who is asleep and may come now: as many of the first as there are places that nobody uses, one to probe, or a flow of
-- them behind a circuit that has closed.
local function call_next(p, now, limit)
  forget_absent(p, now)
  if redis.call('ZCARD', p.asleep) == 0 then return {} end
  local b = redis.call('HMGET', p.breaker, 'until', 'probe', 'probe_until')
  local called, offer_ms = {}, OFFER_MS
  if b[1] then
    if number(b[1]) > now or (b[2] and number(b[3]) > now) then return {} end
    if redis.call('ZCARD', p.offers) == 0 then called = sleepers(p, 20, 1) end
  elseif limit > 0 then
    local free = limit - redis.call('ZCARD', p.slots)
    called = sleepers(p, free, free)
  elseif redis.call('EXISTS', p.flow) == 1 then
    called, offer_ms = flow(p, now), FLOW_OFFER_MS
  end
  for _, call in ipairs(called) do redis.call('ZADD', p.offers, now + offer_ms, call) end
  if #called > 0 then keep(p.offers, offer_ms + 1000) end
  return called
end
