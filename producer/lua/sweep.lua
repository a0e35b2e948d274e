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
  end
end

local function again(id, unit, lane)
  redis.call('ZADD', waiting_key(lane), now, id .. ' ' .. unit)
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
  for page = tonumber(first), first + count - 1 do
    if redis.call('HEXISTS', pages_key(id), page) == 0 then
      add_unit(id, string.format('%d+1', page), 'quarantine', deaths, now)
    end
  end
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
for _, lane in ipairs(LANES) do no_later_than(waiting_key(lane), now) end

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

-- A queue hands out what came first. So a unit that still waits is lost if its queue is empty, or if the queue has
-- come to units that were published much later.
for _, lane in ipairs(LANES) do
  local before = math.min(read_time(FRONTIER, lane), now)
  if redis.call('LLEN', ARGV[6] .. lane) == 0 then before = now end
  for _, member in ipairs(due(waiting_key(lane), before - ARGV[2])) do
    local id, unit = string.match(member, '^(%S+) (.+)$')
    if not id or redis.call('HEXISTS', spans_key(id), unit .. ':lane') == 0 then
      redis.call('ZREM', waiting_key(lane), member)
    elseif lane ~= 'quarantine' then
      again(id, unit, lane)
    end
  end
end
if redis.call('LLEN', ARGV[6] .. 'quarantine') == 0 then
  for _, unit in ipairs(next_quarantined(now)) do publish[#publish + 1] = unit end
end
return { publish, due(GARBAGE, now), deaths_counted }
