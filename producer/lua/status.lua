-- Reads a job. ARGV: id, '1' with its pages. Returns {} or {job fields and values, pages and outcomes}.
local job = redis.call('HGETALL', job_key(ARGV[1]))
if #job == 0 then return {} end
return { job, ARGV[2] == '1' and redis.call('HGETALL', pages_key(ARGV[1])) or {} }
