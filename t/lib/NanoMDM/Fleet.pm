# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Runs mdmfleet, simulated devices, for the suites. It finds fault by itself: with a status that is
# not 200, a command that is not as it was queued, one that comes again after its result was
# accepted, fewer than expected; its exit status is 1 then.
#
#   my $dir = fleet_dir();
#   fleet_ok('name', 'enroll', $dir, '--devices', 10, fleet_authority(), '--url', $url);
#   my $n = fleet_ok('name', 'run', $dir, '--url', $url);     # $n->{'commands answered'}

package NanoMDM::Fleet;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use JSON::PP ();

use NanoMDM::Test;

our @EXPORT = qw(fleet fleet_ok fleet_dir fleet_authority);

my $count = 0;

# A directory for a new fleet.
sub fleet_dir { return var('scratch') . "/fleet-$$-" . ++$count }

# The options that make the devices' certificates ones that the server trusts.
sub fleet_authority { return ('--ca-cert', pki->cert('ca'), '--ca-key', pki->key('ca')) }

# Run mdmfleet on a fleet: (exit code, what it said, its counts, its errors).
sub fleet {
    my ($command, $dir, @args) = @_;
    my $json = var('scratch') . "/fleet-$$.json";
    unlink $json;
    my ($exit, $said) = tool('mdmfleet', $command, '--dir', $dir, '--quiet',
        $command =~ /^(?:make|ids)$/ ? () : ('--json', $json), @args);
    my $result = -s $json ? JSON::PP->new->utf8->decode(slurp($json)) : {};
    return ($exit, $said, $result->{counters} || {}, $result->{errors} || []);
}

# One test: it finds no fault. Returns the counts.
sub fleet_ok {
    my ($name, $command, $dir, @args) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($exit, $said, $counters) = fleet($command, $dir, @args);
    is($exit, 0, $name) or diag($said);
    return $counters;
}

1;
