# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Ports of the loopback. A run has a block of them to itself: whoever listens on a block's first port
# has it, until that process ends. So runs that go on side by side, whoever started them, cannot take
# each other's ports, not even while a server is down that will be back; nor can clients, whose ports
# the kernel takes from above.
#
#   my $port = NanoMDM::Ports::take();    # for the run's httpd: this one and some that follow
#   my $port = NanoMDM::Ports::free();    # for any other server: nobody listens there

package NanoMDM::Ports;

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET ();

my ($from, $to, $size) = (8400, 32768, 200);
my $for_httpd = 40;

my $lock;
my $next = $for_httpd;

sub _listen {
    my ($port) = @_;
    return IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 1, ReuseAddr => 1);
}

# Suites know the block by the environment.
sub take {
    for (my $first = $from ; $first + $size <= $to ; $first += $size) {
        next unless $lock = _listen($first);
        next unless _listen($first + 1);    # an httpd that an earlier run was told to leave
        $ENV{NANOMDM_PORTS} = $first;
        return $first + 1;
    }
    die "no block of ports is free\n";
}

sub free {
    take() unless $ENV{NANOMDM_PORTS};
    for ($for_httpd .. $size - 1) {
        my $port = $ENV{NANOMDM_PORTS} + $next;
        $next = $next + 1 < $size ? $next + 1 : $for_httpd;
        return $port if _listen($port);
    }
    die "no port is free\n";
}

1;
