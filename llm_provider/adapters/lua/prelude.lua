-- Put before every script. Times are milliseconds of Redis's own clock, so that no host's clock matters.
-- A record's number. One that is none ends the step over this record, with a reason that quotes nothing.
local function number(value)
  local found = tonumber(value or 0)
  if not found or not (math.abs(found) < 1e15) then error({err = 'DAMAGED a time or a count in it is no number'}) end
  return found
end

-- The same of a note about all requests, which can do without it.
local function noted(value)
  return tonumber(value or 0) or 0
end

-- For what people are told.
local function wall_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Redis's clock goes back when a failover finds a machine whose clock is behind. What is due must not wait for that, so
-- the ledger's clock never goes back: CLOCK holds how far it is ahead of Redis's by now (sweep.lua).
local function ahead_ms()
  return noted(redis.call('GET', CLOCK))
end

local function now_ms()
  return wall_ms() + ahead_ms()
end

-- Requests decided in the last minute: the current minute so far and the share of the one before that still counts.
local function pace_per_minute(pace_key, now)
  local minute = math.floor(now / 60000)
  local gone = (now % 60000) / 60000
  local counts = redis.call('HMGET', pace_key, minute - 1, minute)
  return noted(counts[1]) * (1 - gone) + noted(counts[2])
end

-- After an outage of Redis all leases have lapsed although the calls behind them still run. Nobody judges a lease
-- while the last sweep is longer ago than half a lease, nor within half a lease after the sweep that noticed it:
-- holders renew every quarter, so each of them has had its turn by then.
local function leases_are_judged(sweep_key, now, lease_ms)
  local note = redis.call('HMGET', sweep_key, 'at', 'pause_until')
  if note[1] and now - noted(note[1]) > lease_ms / 2 then return false end
  return now >= noted(note[2])
end

-- Keeps a record that cannot be read out of everybody's way, until an operator has looked at it.
local function set_aside(id, record, open, waiting, quarantine, reason)
  redis.call('ZREM', open, id)
  redis.call('ZREM', waiting, id)
  redis.pcall('HSET', record, 'fault', reason)
  return redis.call('ZADD', quarantine, 'NX', now_ms(), id)
end

-- What a newer version wrote and nobody took is an operator's after that long.
local LEFT_TO_NEWER_MS = 86400000

local IS_UNDECIDED = {waiting = true, running = true, suspended = true}

-- Why a step over a record failed, in words that quote nothing of it.
local function reason_of(fault)
  local told = type(fault) == 'table' and fault.err or ''
  if told:find('^WRONGTYPE') then return 'its key, or a field of it, holds another type of value' end
  return told:match('^DAMAGED ([^:]*)') or 'a step over it failed'
end
