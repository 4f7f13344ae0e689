-- Put before every script. Times are milliseconds of Redis's own clock, so that no host's clock matters.
local function number(value)
  return tonumber(value or 0)
end

-- For what people are told.
local function wall_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Redis's clock goes back when a failover finds a machine whose clock is behind. What is due must not wait for that, so
-- the ledger's clock never goes back: CLOCK holds how far it is ahead of Redis's by now (sweep.lua).
local function ahead_ms()
  return number(redis.call('GET', CLOCK))
end

local function now_ms()
  return wall_ms() + ahead_ms()
end

-- Requests decided in the last minute: the current minute so far and the share of the one before that still counts.
local function pace_per_minute(pace_key, now)
  local minute = math.floor(now / 60000)
  local gone = (now % 60000) / 60000
  local counts = redis.call('HMGET', pace_key, minute - 1, minute)
  return number(counts[1]) * (1 - gone) + number(counts[2])
end

-- After an outage of Redis all leases have lapsed although the calls behind them still run. Nobody judges a lease
-- while the last sweep is longer ago than half a lease, nor within half a lease after the sweep that noticed it:
-- holders renew every quarter, so each of them has had its turn by then.
local function leases_are_judged(sweep_key, now, lease_ms)
  local note = redis.call('HMGET', sweep_key, 'at', 'pause_until')
  if note[1] and now - number(note[1]) > lease_ms / 2 then return false end
  return now >= number(note[2])
end
