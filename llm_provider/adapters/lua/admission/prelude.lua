-- Put before every script, behind the constants of admission.py. Times are milliseconds of the ledger's clock, so that no
-- host's clock matters; their fraction tells two callers of the same millisecond apart.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + t[2] / 1000 + tonumber(redis.call('GET', CLOCK) or 0)
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

-- What a model is held to:
--   accounts       what is configured; a rate of 0 is none
--   hold           until when its vendor asked to leave it alone
--   slow_since     when its vendor last refused a call; nil: there is nothing learned, and none of the following
--   refused_rate   the rate at which that was; 0: it was the first
--   calling_ms     for how long it has been called since, last_call: the last time
--   next_call      when the next call may be made, awake_until and invited_until: when all who wait awake, and all who
--                  were invited, will have been admitted
--   granted        when its vendor last granted a call while it refused others
local function read_pace(key, now, requests_per_minute, tokens_per_minute)
  local stored, flat = {}, redis.call('HGETALL', key)
  for i = 1, #flat, 2 do stored[flat[i]] = flat[i + 1] end
  local pace = {key = key, now = now, accounts = {}, hold = number(stored.hold), granted = number(stored.granted),
    slow_since = tonumber(stored.slow_since), refused_rate = number(stored.refused_rate),
    calling_ms = number(stored.calling_ms), last_call = number(stored.last_call),
    next_call = number(stored.next_call), awake_until = number(stored.awake_until),
    invited_until = number(stored.invited_until)}
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

-- See admission.py.
local function learned_rate(pace)
  local seconds = pace.calling_ms / 1000
  if pace.refused_rate == 0 then return FIRST_RATE * 2 ^ math.min(seconds / DOUBLED_AFTER_SECONDS, 20) end
  local recovery = math.max(CALLS_TO_RECOVER / pace.refused_rate, LEAST_RECOVERY_SECONDS)
  return math.max(SLOWEST_RATE, pace.refused_rate * (1 + BACK_OFF * (seconds / recovery - 1) ^ 3))
end

-- Milliseconds between two calls.
local function learned_interval(pace)
  return pace.slow_since and 1000 / learned_rate(pace) or 0
end

-- Kept until it tells nothing any more.
local function write_pace(pace, field, value, kept_until)
  redis.call('HSET', pace.key, field, value)
  keep(pace.key, kept_until - pace.now + 1000)
end

-- The line of a provider -----------------------------------------------------------------------------------------------

-- KEYS in the order in which every script has them.
local function provider_keys()
  return {breaker = KEYS[1], slots = KEYS[2], line = KEYS[3], due = KEYS[4], asleep = KEYS[5], invited = KEYS[6],
    flow = KEYS[7], unheard = KEYS[8]}
end

-- Who waits for a circuit or a place is in the line, by its ticket: when it first asked. It is awake, and then `due` says
-- until when it is expected back; or asleep, and then it is invited, unless its time, its score in `asleep`, ends before.
-- Who is invited leaves the line, and its place is kept for as long as its message may take. Should it come later, it
-- still stands before whoever asked after it.
local function leave_line(p, call)
  redis.call('ZREM', p.line, call)
  redis.call('ZREM', p.due, call)
  redis.call('ZREM', p.asleep, call)
  redis.call('ZREM', p.invited, call)
end

local function keep_place(p, call, now)
  redis.call('ZADD', p.invited, now + INVITATION_MS, call)
  keep(p.invited, INVITATION_MS + 1000)
end

local function forget_absent(p, now)
  for _, key in ipairs({p.due, p.asleep}) do
    for _, call in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 500)) do leave_line(p, call) end
  end
  redis.call('ZREMRANGEBYSCORE', p.slots, '-inf', now)
  -- While those who are invited do not come, their workers being dead or busy, nobody who is there waits for them.
  if redis.call('ZREMRANGEBYSCORE', p.invited, '-inf', now) > 0 then
    redis.call('SET', p.unheard, now + UNHEARD_KEPT_MS, 'PX', UNHEARD_KEPT_MS)
  end
end

-- How many a circuit lets come: any number when it is closed, one to probe it, and nobody until then.
local function invitations_of_circuit(p, now)
  local b = redis.call('HMGET', p.breaker, 'until', 'probe', 'probe_until')
  if not b[1] then return math.huge end
  if number(b[1]) > now or (b[2] and number(b[3]) > now) then return 0 end
  return math.max(0, 1 - redis.call('ZCARD', p.invited))
end

local function free_places(p, limit)
  if limit == 0 then return math.huge end
  return limit - redis.call('ZCARD', p.slots) - redis.call('ZCARD', p.invited)
end

-- Once a circuit has closed, those who wait come slowly first, and twice as many each second, until as many may come at
-- once as there are places.
local function invitations_of_flow(p, now, limit)
  local f = redis.call('HMGET', p.flow, 'second', 'allowed', 'left')
  local second, allowed, left = math.floor(now / 1000), number(f[2]), number(f[3])
  if not f[1] or second > number(f[1]) + 10 then
    allowed, left = FIRST_INVITED, FIRST_INVITED
  elseif second > number(f[1]) then
    allowed = math.min(2 * allowed, MOST_INVITED)
    left = allowed
  end
  if limit > 0 and allowed >= limit then
    redis.call('DEL', p.flow)
    return math.huge
  end
  redis.call('HSET', p.flow, 'second', second, 'allowed', allowed, 'left', left)
  keep(p.flow, FLOW_KEPT_MS)
  return left
end

-- Who is asleep in the line and may come now, put behind those in `invited`. Those awake who stand before them come by
-- themselves.
local function invite_next(p, now, limit, invited)
  forget_absent(p, now)
  if redis.call('ZCARD', p.asleep) == 0 or redis.call('ZCARD', p.line) == 0 then return invited end
  local of_circuit = invitations_of_circuit(p, now)
  local most, flows = math.min(of_circuit, free_places(p, limit)), false
  if of_circuit == math.huge and most > 0 then
    flows = redis.call('EXISTS', p.flow) == 1
    -- Whom a process without a limit finds here waits for the places of another one's.
    if limit == 0 and not flows then return invited end
    if flows then most = math.min(most, invitations_of_flow(p, now, limit)) end
  end
  if most <= 0 then return invited end
  local sleepers = {}
  for _, call in ipairs(redis.call('ZRANGE', p.line, 0, most - 1)) do
    if redis.call('ZSCORE', p.asleep, call) then table.insert(sleepers, call) end
  end
  for _, call in ipairs(sleepers) do
    leave_line(p, call)
    table.insert(invited, call)
    if limit > 0 or of_circuit == 1 then keep_place(p, call, now) end
  end
  if flows and redis.call('EXISTS', p.flow) == 1 then redis.call('HINCRBY', p.flow, 'left', -#sleepers) end
  return invited
end

-- Who sleeps for what was learned about a model, `paced` by ticket, and may come soon.
local function invite_paced(p, now, pace, paced, invited)
  local most = redis.call('EXISTS', paced) == 1 and invitations_of_circuit(p, now) or 0
  local at = math.max(now, pace.hold, pace.next_call, pace.awake_until, pace.invited_until)
  local first, interval = at, math.max(LEAST_INTERVAL_MS, learned_interval(pace))
  while true do
    local call = redis.call('ZRANGE', paced, 0, 0)[1]
    if not call then break end
    -- Others have left, or their time has ended.
    local is_there = number(redis.call('ZSCORE', p.asleep, call)) > now
    if is_there and (most <= 0 or at >= now + INVITED_AHEAD_MS) then break end
    redis.call('ZREM', paced, call)
    if is_there then
      leave_line(p, call)
      table.insert(invited, call)
      if most == 1 then keep_place(p, call, now) end
      at, most = at + interval, most - 1
    end
  end
  if at > first then write_pace(pace, 'invited_until', at, at) end
  pace.invited_until = at
  return invited
end
