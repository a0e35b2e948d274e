#!lua flags=allow-oom
-- Writes one page's outcome if the fence is current, the job is not final and the page has no outcome.
-- ARGV: id, unit, fence, page, outcome (JSON), its error (JSON) or '', TTL of a final job (s), the blob that the outcome
--       stands for, or '', where its time went (JSON) or ''; and for the cache: how the worker reads, digest of the
--       page's pixels, how long it is known (s)
-- Returns 'fenced', 'final', 'duplicate', 'running' or the final state that this page brought.
local id = ARGV[1]
local page, first, count = whole(4, 1), pages_of(ARGV[2])
if not first or page < tonumber(first) or page >= first + count then error('the page is not of this unit') end
whole(7, 0)
local blob = ARGV[8] or ''
if blob ~= '' then check_blob(blob) end
local trace, reader, pixels = ARGV[9] or '', ARGV[10] or '', ARGV[11] or ''
local known_s = pixels ~= '' and whole(12, 1)
local state = redis.call('HGET', job_key(id), 'state')
if not state or FINAL[state] then return 'final' end
if not holds(id, ARGV[2], ARGV[3]) then return 'fenced' end
local now = now_ms()
local is_new = redis.call('HEXISTS', pages_key(id), page) == 0
if is_new then note_read(id, ARGV[5], reader) end
if is_new and blob == '' and pixels ~= '' then
  redis.call('SET', pixels_key(pixels), id .. ' ' .. page, 'EX', known_s)
end
if is_new and blob ~= '' then
  -- As the job's document: both go when its result does.
  local ttl = math.max(1, redis.call('TTL', job_key(id)))
  redis.call('SADD', outcomes_key(id), blob)
  redis.call('EXPIRE', outcomes_key(id), ttl)
  redis.call('ZADD', GARBAGE, now + ttl * 1000, blob)
end
return record_page(id, ARGV[2], page, ARGV[5], ARGV[6], trace ~= '' and trace or nil, tonumber(ARGV[7]), now)
