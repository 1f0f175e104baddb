-- SPDX-License-Identifier: Apache-2.0
-- For wrk: asks for files by chance at a set rate and sums up in one line of JSON. Arguments: milliseconds between two requests of
-- a connection, then KIND:COUNT for the files /0.KIND to /(COUNT-1).KIND.

local pause_ms, files, others = 0, {}, 0

function init(arguments)
        math.randomseed(1)
        pause_ms = tonumber(arguments[1])
        for i = 2, #arguments do
                local kind, count = arguments[i]:match("^(%w+):(%d+)$")
                for number = 0, tonumber(count) - 1 do
                        files[#files + 1] = "/" .. number .. "." .. kind
                end
        end
end

function request()
        return wrk.format("GET", files[math.random(#files)])
end

-- By chance, so that connections do not march in step.
function delay()
        return pause_ms * (0.5 + math.random())
end

function done(summary, latency, requests)
        local errors = summary.errors
        print(string.format(
                '{"per_s": %.1f, "p50_ms": %.2f, "p99_ms": %.2f, "slowest_ms": %.2f, "lost": %d}',
                summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1000, latency:percentile(99) / 1000,
                latency.max / 1000, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
