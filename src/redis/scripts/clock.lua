-- The only clock: Redis's own, in milliseconds. The clocks of servers never matter.

-- Redis 6 refuses to write after TIME unless it replicates effects, as later versions always do.
if redis.replicate_commands then redis.replicate_commands() end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
