#!lua flags=allow-oom
-- KEYS breaker pace slots held
-- ARGV call_id health epoch('?': not known) is_probe(0|1) failures open_ms successes
--   requests_per_minute tokens_per_minute(0: no limit) tokens_beyond_estimate hold_ms has_slots(0|1) model
local breaker, call, health = KEYS[1], ARGV[1], ARGV[2]
local now, open_ms = now_ms(), number(ARGV[6])

if ARGV[12] == '1' then redis.call('ZREM', KEYS[3], call) end

local b = redis.call('HMGET', breaker, 'until', 'probe', 'epoch', 'goods', 'failures')
local kept_ms = math.ceil(open_ms) + 3600000

local function note(...)
  redis.call('HSET', breaker, ...)
  redis.call('PEXPIRE', breaker, kept_ms)
end

local function count_failure(always_opens)
  local failures = number(b[5]) + 1
  note('failures', failures)
  if always_opens or failures >= number(ARGV[5]) then
    -- The epoch tells the results of calls that began before this moment from those of later ones.
    note('until', now + open_ms, 'epoch', string.format('%.3f', now))
    redis.call('HDEL', breaker, 'goods', 'probe', 'probe_until')
  end
end

local function count_good_probe()
  if number(b[4]) + 1 >= number(ARGV[7]) then
    redis.call('HDEL', breaker, 'until', 'goods', 'failures')
  else
    note('goods', number(b[4]) + 1)
  end
end

if b[2] == call then
  redis.call('HDEL', breaker, 'probe', 'probe_until')
  if health == 'good' then count_good_probe() end
  if health == 'bad' then count_failure(true) end
elseif not b[1] and ARGV[4] == '0' and (ARGV[3] == '?' or ARGV[3] == (b[3] or '')) then
  if health == 'bad' then count_failure(false) end
  if health == 'good' and b[5] then redis.call('HDEL', breaker, 'failures') end
end

local beyond, hold_ms = number(ARGV[10]), number(ARGV[11])
if (beyond ~= 0 and ARGV[9] ~= '0') or hold_ms > 0 then
  local pace = read_pace(KEYS[2], now, number(ARGV[8]), number(ARGV[9]))
  local a = pace.tokens
  if a and beyond ~= 0 then
    a.at = math.max(now, a.at + beyond * a.interval)
    write_pace(pace, 'tokens', a.at)
  end
  if now + hold_ms > pace.hold and hold_ms > 0 then
    local hold = now + hold_ms
    write_pace(pace, 'hold', hold)
    -- The list of what is held, for whoever looks.
    redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
    redis.call('ZADD', KEYS[4], hold, ARGV[13])
    redis.call('PEXPIRE', KEYS[4], math.max(redis.call('PTTL', KEYS[4]), math.ceil(hold_ms) + 1000))
    -- The first turn comes when the hold ends, and those behind it at the pace of the limit.
    for _, held in pairs({pace.requests, pace.tokens}) do
      write_pace(pace, held.field, math.max(held.at, hold + (held.burst - 1) * held.interval))
    end
  end
end
