#!lua flags=allow-oom
-- Writes one page's outcome if the fence is current, the job is not final and the page has no outcome.
-- ARGV: id, unit, fence, page, outcome (JSON), its error (JSON) or '', TTL of a final job (s), where its time went
--       (JSON), if that is known
-- Returns 'fenced', 'final', 'duplicate', 'running' or the final state that this page brought.
local id = ARGV[1]
local page, first, count = whole(4, 1), pages_of(ARGV[2])
if not first or page < tonumber(first) or page >= first + count then error('the page is not of this unit') end
whole(7, 0)
local state = redis.call('HGET', job_key(id), 'state')
if not state or FINAL[state] then return 'final' end
if not holds(id, ARGV[2], ARGV[3]) then return 'fenced' end
return record_page(id, ARGV[2], page, ARGV[5], ARGV[6], ARGV[8], tonumber(ARGV[7]), now_ms())
