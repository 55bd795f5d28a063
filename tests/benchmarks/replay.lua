-- Sends the requests of a file one after the other, and then from the start again.
-- Arguments: FILE [FIRST]. In the file, before each request, stands a line with its length in bytes.
local requests, at = {}, 0

function init(args)
  local file = assert(io.open(args[1], "rb"))
  local length = file:read("*n")
  while length do
    file:read(1)
    requests[#requests + 1] = file:read(length)
    length = file:read("*n")
  end
  file:close()
  at = tonumber(args[2] or 0)
end

function request()
  at = at % #requests + 1
  return requests[at]
end
