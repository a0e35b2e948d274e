-- Writes one page's outcome if the fence is current, the job is not final and the page has no outcome.
-- ARGV: id, unit, fence, page, outcome (JSON), its error (JSON) or '', TTL of a final job (s)
-- Returns 'fenced', 'final', 'duplicate', 'running' or the final state that this page brought.
local id = ARGV[1]
local state = redis.call('HGET', job_key(id), 'state')
if not state or FINAL[state] then return 'final' end
if redis.call('HGET', spans_key(id), ARGV[2] .. ':fence') ~= ARGV[3] then return 'fenced' end
return record_page(id, ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), now_ms())
