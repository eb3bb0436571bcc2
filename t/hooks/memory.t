# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Events that wait in memory: Idle reports, which reach the table in batches, and those of a webhook
# with delivery=memory, whose losses are counted.
use strict;
use warnings FATAL => 'all';

use NanoMDM::Receiver ();
use NanoMDM::Test;

my $durable = NanoMDM::Receiver->new;
my $memory  = NanoMDM::Receiver->new;
my ($durable_url, $memory_url) = ($durable->url('/durable'), $memory->url('/memory'));
$_->down for $durable, $memory;
my $httpd = server(NanoMDM::Httpd->new(config => <<"END_CONFIG"));
NanoMDMWebhook $durable_url topics=mdm.Connect
NanoMDMWebhook $memory_url topics=mdm.Connect,mdm.SetBootstrapToken delivery=memory
NanoMDMLastSeenInterval 2s
<IfModule mpm_prefork_module>
    StartServers 1
    MinSpareServers 1
    MaxRequestWorkers 1
</IfModule>
<Location "/mdm">
    SetHandler nanomdm
</Location>
END_CONFIG
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

# What a device says is stored as it is: among others in one row or one statement, too.
my @devices = map { enroll(device(), 'enrolled') } 1 .. 20;
my $odd = q({p}{ids} %s %lld %% 'quoted' "double" back\\slash \\' ; -- /* ) . "\xc3\xa4 \xf0\x9f\x8d\x8f\n";
my %said;
for my $n (0 .. $#devices) {
    my %members = (Note => "$n $odd" . ($n == 7 ? 'x' x 500_000 : ''));
    is_status(report($devices[$n], Status => 'Idle', %members), 200, 'idle');
    $said{ $devices[$n]{id} } = report_plist($devices[$n], Status => 'Idle', %members);
}
# A row may hold several events.
my $waiting = sub {
    my $rows = db('SELECT event FROM mdm_webhook_outbox WHERE webhook = ?', $durable_url);
    return scalar map { $_->{event} =~ /"event_id":/g } @$rows;
};
ok((eventually { $waiting->() == @devices } 10), 'Idle reports reach the table') or diag($waiting->());
$_->up for $durable, $memory;
for my $receiver ($durable, $memory) {
    eventually { $receiver->count >= @devices } 60;
    my %got = map { ($_->{inner}{ids}{id} => $_->{payload}) } $receiver->events;
    is_deeply(\%got, \%said, '… and the receiver, byte for byte');
    is($receiver->count, @devices, '… each once');
}
ok((eventually { !$waiting->() } 10), 'nothing is left in the table');
my $batches = () = $httpd->log =~ /an insert/g;
is($batches, 0, 'no insert failed');

# More than there is room for. In memory a payload takes about what it has: 64 MiB are ten of 6 MB.
$memory->down;
my $mark = log_mark();
my $large = 'x' x 6_000_000;
my @large = map { sprintf 'L%02d', $_ } 1 .. 13;
is_status(report($devices[0], Status => 'Acknowledged', CommandUUID => $_, Text => $large), 200, "6 MB: $_")
    for @large;
my $lost = sub {
    my $n = 0;
    $n += $_ for log_since($mark) =~ /\[nanomdm:error\].*: (\d+) events were lost: too many wait in memory/g;
    return $n;
};
ok((eventually { $lost->() >= 2 } 15), 'what does not fit is lost, and counted') or diag(log_since($mark));
my $fit = @large - $lost->();
$memory->up;
ok((eventually { $memory->count >= @devices + $fit } 60), 'what did fit arrives when the receiver is back');
my @arrived = map { $_->{inner}{command_uuid} // () } $memory->heads;
is_deeply(\@arrived, [@large[ 0 .. $fit - 1 ]], '… in order');
cmp_ok($fit, '>=', 10, '… ten at least');
ok((eventually { $durable->count >= @devices + @large } 60), 'the durable webhook lost none');
my %durable = map { ($_->{inner}{command_uuid} => 1) } grep { $_->{inner}{command_uuid} } $durable->heads;
is_deeply([sort keys %durable], \@large, '… of them');

# What is in memory at an orderly end has a moment to be delivered; then it is lost, and told where
# there is anybody to tell.
$memory->answer(status => 200);
my $n = $memory->count;
is_status(checkin($devices[1], 'SetBootstrapToken', BootstrapToken => data('x')), 200, 'a message');
$httpd->stop;
ok((eventually { $memory->count == $n + 1 } 5), 'an orderly end delivers what is in memory');
ok($httpd->start, 'starts again');
$memory->down;
is_status(checkin($devices[1], 'SetBootstrapToken', BootstrapToken => data('y')), 200, 'a message, no receiver');
$mark = log_mark();
$httpd->stop;
SKIP: {
    last SKIP if var('mpm') =~ /prefork/;    # its children end inside of a signal handler
    like(log_since($mark), qr/\[nanomdm:warn\].*: 1 events were lost at the end of a process/,
        '… without a receiver it is lost, and told');
}
done_testing;
