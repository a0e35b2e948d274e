#!lua flags=allow-oom
-- Finds what nobody looks after: jobs past their deadline, units whose lease ran out, units whose message is lost,
-- and blobs whose job is over.
-- ARGV: most rows of each kind, unclaimed after (ms), TTL of a final job (s), error of an expired job (JSON),
--       error of a poison page (JSON), queue prefix, lease (ms)
-- Returns {{id, unit, lane}... to publish}, {blob... to delete}, deaths counted.
whole(1, 1); whole(2, 0); whole(3, 0); whole(7, 1)
local poison = cjson.decode(ARGV[5])
if type(poison) ~= 'table' then error('the error of a poison page must be an object') end
local limit, now, ttl, lease = tonumber(ARGV[1]), now_ms(), tonumber(ARGV[3]), tonumber(ARGV[7])
local publish, deaths_counted = {}, 0

local function due(key, before)
  return redis.call('ZRANGE', key, '-inf', before, 'BYSCORE', 'LIMIT', 0, limit)
end

for _, id in ipairs(due(ACTIVE, now)) do
  if not finalise(id, 'expired', ARGV[4], ttl, now) then
    redis.call('ZREM', ACTIVE, id)
    redis.call('SREM', RUNNING, id)
    take_off(id)
  end
end

local function again(id, unit, lane)
  put_waiting(id, unit, lane, now)
  if lane ~= 'quarantine' then publish[#publish + 1] = { id, unit, lane } end
end

-- A unit that two workers died with travels on page by page, one page at a time in the whole pool; a page that a third
-- worker died with fails alone.
local function after_death(id, unit, lane, deaths)
  local first, count = string.match(unit, '^(%d+)%+(%d+)$')
  if deaths < 2 then return again(id, unit, lane) end
  if not first then
    if deaths < 3 then return again(id, unit, lane) end
    bury_unit(id, unit, poison, now)
    return finalise(id, 'failed', ARGV[5], ttl, now)
  end
  remove_unit(id, unit)
  if deaths >= 3 and tonumber(count) == 1 then
    bury_unit(id, unit, poison, now)
    local outcome = cjson.encode({ kind = 'failure', page = tonumber(first), error = poison })
    return record_page(id, unit, tonumber(first), outcome, ARGV[5], nil, ttl, now)
  end
  for _, page in ipairs(pages_left(id, unit)) do
    add_unit(id, string.format('%d+1', page), 'quarantine', deaths, now)
  end
  -- Without its only unit the key was gone, and its TTL with it.
  redis.call('EXPIRE', spans_key(id), math.max(1, redis.call('TTL', job_key(id))))
end

-- A time that lies further ahead than anything is set was written before the server's clock stepped back.
local function no_later_than(key, latest)
  for _, member in ipairs(redis.call('ZRANGE', key, '(' .. latest, '+inf', 'BYSCORE', 'LIMIT', 0, limit)) do
    redis.call('ZADD', key, latest, member)
  end
end
local function read_time(key, field)
  local time = tonumber(redis.call('HGET', key, field) or 0)
  if time <= now + lease then return time end
  redis.call('HDEL', key, field)
  return 0
end
no_later_than(LEASES, now + lease)
for _, lane in ipairs(LANES) do
  for _, tenant in ipairs(tenants_in(lane)) do no_later_than(waiting_key(lane, tenant), now) end
end

-- After a time in which nobody swept, Redis was away or every worker was: live holders get one lease to renew in, once.
local last, patient_until = read_time(SWEEPS, 'last'), read_time(SWEEPS, 'patient_until')
if last > patient_until and now - last > lease then
  patient_until = now + lease
  redis.call('HSET', SWEEPS, 'patient_until', patient_until)
end
redis.call('HSET', SWEEPS, 'last', now)
if now >= patient_until then
  for _, member in ipairs(due(LEASES, now)) do
    local id, unit = string.match(member, '^(%S+) (.+)$')
    local lane = id and redis.call('HGET', spans_key(id), unit .. ':lane')
    if not lane then
      redis.call('ZREM', LEASES, member)
    else
      forget(id, unit)
      deaths_counted = deaths_counted + 1
      note(id, { what = 'lapsed', unit = unit }, now)
      after_death(id, unit, lane, redis.call('HINCRBY', spans_key(id), unit .. ':deaths', 1))
    end
  end
end

-- A message brings the unit whose turn it is, whichever it names, so that none is lost with its message: a lane needs as
-- many messages as units wait. One whose queue is empty is given those of units that have waited long; one that has had
-- too few for long, the rest.
for _, lane in ipairs(LANES) do
  local messages, waiting, short = redis.call('LLEN', ARGV[6] .. lane), 0, 'short:' .. lane
  for _, tenant in ipairs(tenants_in(lane)) do
    local here = waiting_key(lane, tenant)
    for _, member in ipairs(messages == 0 and due(here, now - ARGV[2]) or {}) do
      local id, unit = string.match(member, '^(%S+) (.+)$')
      if not id or redis.call('HEXISTS', spans_key(id), unit .. ':lane') == 0 then
        redis.call('ZREM', here, member)
      elseif lane ~= 'quarantine' then
        again(id, unit, lane)
      end
    end
    local there = redis.call('ZCARD', here)
    if there > 0 and lane ~= 'quarantine' then enter_turns(lane, tenant) end
    waiting = waiting + there
  end
  if messages == 0 or messages >= waiting or lane == 'quarantine' then
    redis.call('HDEL', SWEEPS, short)
  elseif read_time(SWEEPS, short) == 0 then
    redis.call('HSET', SWEEPS, short, now)
  elseif read_time(SWEEPS, short) <= now - ARGV[2] then
    redis.call('HDEL', SWEEPS, short)
    local missing = math.min(waiting - messages, limit)
    for _, tenant in ipairs(tenants_in(lane)) do
      for _, member in ipairs(redis.call('ZRANGE', waiting_key(lane, tenant), 0, missing - 1)) do
        local id, unit = string.match(member, '^(%S+) (.+)$')
        if id and missing > 0 then
          publish[#publish + 1] = { id, unit, lane }
          missing = missing - 1
        end
      end
    end
  end
end
if redis.call('LLEN', ARGV[6] .. 'quarantine') == 0 then
  for _, unit in ipairs(next_quarantined(now)) do publish[#publish + 1] = unit end
end

-- How many pages were read in a second of late, in thousandths, while there were some to read.
local pace = redis.call('HMGET', PACE, 'pages', 'at', 'busy', 'rate')
local read = redis.call('HMGET', TOTALS, 'pages_succeeded', 'pages_failed')
local pages, at = (tonumber(read[1]) or 0) + (tonumber(read[2]) or 0), tonumber(pace[2]) or now
local busy = redis.call('ZCARD', ACTIVE) > 0 and '1' or '0'
if not pace[2] or now < at or now - at >= 1000 then
  if pace[3] == '1' and busy == '1' and now > at then
    local rate = math.max(0, pages - tonumber(pace[1])) * 1e6 / (now - at)
    local old = tonumber(pace[4]) or rate
    redis.call('HSET', PACE, 'rate', math.floor(old + math.min(1, (now - at) / 30000) * (rate - old)))
  end
  redis.call('HSET', PACE, 'pages', pages, 'at', now, 'busy', busy)
end
return { publish, due(GARBAGE, now), deaths_counted }
