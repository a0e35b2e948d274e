-- Reads a job without its pages. ARGV: id. Returns `status_of` it.
return status_of(ARGV[1])
