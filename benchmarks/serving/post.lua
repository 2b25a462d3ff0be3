-- wrk: repeat one POST, or several in turn. Arguments: BODY_FILE COUNT RECORD ["Name: value"]...
-- The bodies are in BODY_FILE.0, BODY_FILE.1 and so on.
-- Prints one line of JSON after the marker "reading".
-- With RECORD = "record" the moment of every answer is kept; that costs wrk some speed, so it is
-- for slow models only, where the answers missing at the end of a run would count.

local ffi = require("ffi")
ffi.cdef [[
  typedef struct { long seconds; long nanoseconds; } benchmark_moment;
  int clock_gettime(int clock, benchmark_moment *moment);
]]
local MONOTONIC = 1
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

function init(args)
  wrk.method = "POST"
  wrk.body = read(args[1] .. ".0")
  wrk.headers["Content-Type"] = "application/json"
  for i = 4, #args do
    local name, value = args[i]:match("^(.-): (.*)$")
    wrk.headers[name] = value
  end
  local count = tonumber(args[2])
  if count > 1 then
    local requests, turn = {}, 0
    for i = 1, count do
      requests[i] = wrk.format(nil, nil, nil, read(args[1] .. "." .. (i - 1)))
    end
    request = function()
      turn = turn % count + 1
      return requests[turn]
    end
  end
  moments = {}
  if args[3] == "record" then
    local moment = ffi.new("benchmark_moment")
    response = function()
      ffi.C.clock_gettime(MONOTONIC, moment)
      moments[#moments + 1] = tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
    end
  end
end

function done(summary, latency)
  local moments = {}
  for _, thread in ipairs(threads) do
    for _, moment in ipairs(thread:get("moments")) do
      moments[#moments + 1] = string.format("%.6f", moment)
    end
  end
  local errors = summary.errors
  io.write(string.format(
    'reading {"answers": %d, "seconds": %.6f, "p50": %.6f, "p99": %.6f, "refused": %d, "broken": %d, "moments": [%s]}\n',
    summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    table.concat(moments, ",")))
end
