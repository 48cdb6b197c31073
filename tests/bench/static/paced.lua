-- For wrk: requests at about half load. The argument is the mean pause of one connection in milliseconds; pauses are
-- drawn at random, so that connections do not fall into step. Prints percentiles in microseconds.
local most = 0

function init(arguments)
  most = 2 * tonumber(arguments[1])
  math.randomseed(os.time())
end

function delay()
  return math.random(0, most)
end

function done(summary, latency, requests)
  io.write(string.format("p50 %d p99 %d\n", latency:percentile(50), latency:percentile(99)))
end
