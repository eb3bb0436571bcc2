-- Copyright 2026 The mod_nanomdm authors
-- SPDX-License-Identifier: Apache-2.0
--
-- wrk script: sends requests that were written beforehand, byte for byte.
--
--   wrk … -s replay.lua URL -- FILE [path=PATH] [once] [unique]
--
-- FILE     as "mdmfleet presign" writes it: a line with the length, the request, a newline
-- path=    replaces the path of each request
-- once     stop at the end of the file instead of beginning anew
-- unique   replaces @UNIQUE@ in each request by 24 characters that never repeat
--
-- With several threads each takes its share. The last line of output is JSON.

local ffi = require("ffi")
ffi.cdef [[
    struct timeval { long tv_sec; long tv_usec; };
    int gettimeofday(struct timeval *tv, void *tz);
]]
local clock = ffi.new("struct timeval")

-- Microseconds.
local function now()
    ffi.C.gettimeofday(clock, nil)
    return tonumber(clock.tv_sec) * 1000000 + tonumber(clock.tv_usec)
end

local threads = {}

function setup(thread)
    thread:set("id", #threads)
    table.insert(threads, thread)
end

function init(args)
    local count = 0
    requests, position, finished, turn = {}, 0, 0, 0
    options = {}
    for i = 2, #args do
        local key, value = args[i]:match("^(%w+)=(.*)$")
        options[key or args[i]] = value or true
    end
    local file = assert(io.open(args[1], "rb"))
    while true do
        local length = file:read("*l")
        if not length then break end
        local text = file:read(tonumber(length))
        file:read(1)
        if options.path then
            text = text:gsub("^(%u+) %S+", "%1 " .. options.path, 1)
        end
        count = count + 1
        requests[count] = text
    end
    file:close()
    total = count
    -- Threads begin at different places, so that they do not speak as one device at once.
    offset = id * 7919
    start = 0
end

function request()
    if start == 0 then start = now() end
    turn = turn + 1
    if options.once then
        -- One thread only; each request is sent once.
        if turn >= total and finished == 0 then
            finished = now()
            wrk.thread:stop()
        end
        return requests[math.min(turn, total)]
    end
    local text = requests[(offset + turn) % total + 1]
    if options.unique then
        local unique = string.format("%04x-%08x-%010x", id, now() % 4294967296, turn)
        text = text:gsub("@UNIQUE@", unique, 1)
    end
    return text
end

function done(summary, latency)
    local duration = summary.duration
    for _, thread in ipairs(threads) do
        local began, ended = tonumber(thread:get("start")), tonumber(thread:get("finished"))
        if ended and ended > 0 then duration = ended - began end
    end
    local e = summary.errors
    io.write(string.format(
        '{"requests":%d,"seconds":%.6f,"p50_ms":%.4f,"p90_ms":%.4f,"p99_ms":%.4f,"max_ms":%.4f,' ..
        '"errors":%d,"status_errors":%d}\n',
        summary.requests, duration / 1e6, latency:percentile(50) / 1000,
        latency:percentile(90) / 1000, latency:percentile(99) / 1000, latency.max / 1000,
        e.connect + e.read + e.write + e.timeout + e.status, e.status))
end
