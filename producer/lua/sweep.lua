-- Finds what nobody looks after: jobs past their deadline, units whose lease ran out, units whose message is lost,
-- and blobs whose job is over.
-- ARGV: most rows of each kind, unclaimed after (ms), TTL of a final job (s), error of an expired job (JSON),
--       error of a poison page (JSON), queue prefix
-- Returns {{id, unit, lane}... to publish}, {blob... to delete}, deaths counted.
local limit, now, ttl = tonumber(ARGV[1]), now_ms(), tonumber(ARGV[3])
local publish, deaths_counted = {}, 0

local function due(key, before)
  return redis.call('ZRANGE', key, '-inf', before, 'BYSCORE', 'LIMIT', 0, limit)
end

for _, id in ipairs(due(ACTIVE, now)) do
  if not finalise(id, 'expired', ARGV[4], ttl, now) then redis.call('ZREM', ACTIVE, id) end
end

local function again(id, unit, lane)
  redis.call('ZADD', WAITING, now, id .. ' ' .. unit)
  publish[#publish + 1] = { id, unit, lane }
end

-- A unit that two workers died with travels on page by page, apart from other documents; a page that a third one died
-- with fails alone.
local function after_death(id, unit, lane, deaths)
  local first, count = string.match(unit, '^(%d+)%+(%d+)$')
  if deaths < 2 then return again(id, unit, lane) end
  if not first then
    if deaths < 3 then return again(id, unit, lane) end
    return finalise(id, 'failed', ARGV[5], ttl, now)
  end
  local fences = spans_key(id)
  if deaths >= 3 and tonumber(count) == 1 then
    redis.call('HDEL', fences, unit .. ':fence', unit .. ':lane', unit .. ':deaths', unit .. ':worker')
    local outcome = cjson.encode({ kind = 'failure', page = tonumber(first), error = cjson.decode(ARGV[5]) })
    return record_page(id, first, outcome, ARGV[5], ttl, now)
  end
  redis.call('HDEL', fences, unit .. ':fence', unit .. ':lane', unit .. ':deaths', unit .. ':worker')
  for page = tonumber(first), first + count - 1 do
    if redis.call('HEXISTS', pages_key(id), page) == 0 then
      local single = string.format('%d+1', page)
      add_unit(id, single, 'quarantine', deaths, now)
      publish[#publish + 1] = { id, single, 'quarantine' }
    end
  end
end

for _, member in ipairs(due(LEASES, now)) do
  redis.call('ZREM', LEASES, member)
  local id, unit = string.match(member, '^(%S+) (.+)$')
  local lane = redis.call('HGET', spans_key(id), unit .. ':lane')
  if lane then
    deaths_counted = deaths_counted + 1
    after_death(id, unit, lane, redis.call('HINCRBY', spans_key(id), unit .. ':deaths', 1))
  end
end

for _, member in ipairs(due(WAITING, now - ARGV[2])) do
  local id, unit = string.match(member, '^(%S+) (.+)$')
  local lane = redis.call('HGET', spans_key(id), unit .. ':lane')
  if not lane then
    redis.call('ZREM', WAITING, member)
  elseif redis.call('LLEN', ARGV[6] .. lane) == 0 then
    again(id, unit, lane)
  end
end

local blobs = due(GARBAGE, now)
if #blobs > 0 then redis.call('ZREM', GARBAGE, unpack(blobs)) end
return { publish, blobs, deaths_counted }
