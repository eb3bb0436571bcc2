# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# How a server starts, reloads and stops: what it opens and what it leaves alone, what a wrong
# schema does, and that nothing is lost at the end.
#
# Databases: sqlite3 (what becomes of its file)

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep);

use NanoMDM::Test;

# everything in one virtual host: the main server has no database then, not even the default one
my $host = <<'END_HOST';
<VirtualHost 127.0.0.1:@site_port@>
    NanoMDMDatabase          sqlite3 @dir@/nanomdm.db
    NanoMDMSchema            create
    NanoMDMCACertificateFile @pki@/ca.pem
    NanoMDMAPIKey            file:@scratch@/api.key
    <Location "/mdm">
        SetHandler nanomdm
    </Location>
    @api@
</VirtualHost>
END_HOST
my $httpd = server(NanoMDM::Httpd->new(base => 0, ports => ['site'], config => $host));
ok($httpd->start, 'all settings in a virtual host: starts') or diag($httpd->{output}, $httpd->log);
my $device = enroll(device(host => 'site'), '… and serves');
is_status(report($device), 200, '… a report');
my ($command) = command_plist('ProfileList');
is_status(api(PUT => "enqueue/$device->{id}?nopush=1", $command, host => 'site'), 200, '… and the API');
is_status(request(GET => '/mdm'), 404, '… but not on the main server');
unlike($httpd->log . $httpd->{output}, qr{/var/lib/nanomdm}, '… and the default database is left alone');
$httpd->stop;

# the module is loaded and used nowhere
$httpd = server(NanoMDM::Httpd->new(base => 0));
ok($httpd->start, 'no directive of ours: starts');
is_status(request(GET => '/mdm'), 404, '… and serves as ever');
unlike($httpd->log . $httpd->{output}, qr{/var/lib/nanomdm}, '… without any database');
$httpd->stop;

# NanoMDMSchema check, without a database that fits
my $check = <<'END_CHECK';
NanoMDMDatabase          sqlite3 @dir@/nanomdm.db
NanoMDMSchema            check
NanoMDMCACertificateFile @pki@/ca.pem
<Location "/mdm">
    SetHandler nanomdm
</Location>
END_CHECK
$httpd = server(NanoMDM::Httpd->new(base => 0, config => $check));
my $begun = time;
ok(!$httpd->start, 'check, and no database file: does not start');
is($httpd->{exit}, 1, '… and says so by its exit status');
like($httpd->{output} . $httpd->log, qr/NanoMDMSchema create/, '… with the remedy');
is(join(' ', glob "$httpd->{database}*"), '', '… and makes no file');
ok(!$httpd->answers, '… nothing listens');
$httpd = server(NanoMDM::Httpd->new(base => 0, config => $check));
spew($httpd->{database}, '');
ok(!$httpd->start, 'check, and an empty file: does not start');
is($httpd->{exit}, 1, '… exit status');
like($httpd->{output} . $httpd->log, qr/NanoMDMSchema create/, '… with the remedy');
$httpd = server(NanoMDM::Httpd->new(base => 0, config => $check));
spew($httpd->{database}, 'this is no database, whatever its name says' x 100);
$httpd->start ? $httpd->stop : isnt($httpd->{exit}, 0, 'a file that is no database is no crash');
like($httpd->{output} . $httpd->log, qr/NanoMDMDatabase/, '… and is complained about');
cmp_ok(time - $begun, '<', 15, 'all of that takes no long time');

# … and with one that does
$httpd = server(NanoMDM::Httpd->new(config => "<Location /mdm>\nSetHandler nanomdm\n</Location>\n"));
ok($httpd->start, 'create: starts, and again with the tables there');
enroll(device());
$httpd->stop;
ok($httpd->start, '… a second time');
$httpd->stop;
$httpd->configure("NanoMDMSchema check\n$httpd->{config}");
ok($httpd->start, 'check, and a database that fits: starts') or diag($httpd->log);
enroll(device());
$httpd->stop;

# The same at a reload: the server goes on.
$httpd = server(NanoMDM::Httpd->new(config => "<Location /mdm>\nSetHandler nanomdm\n</Location>\n"
    . "<Location /version>\nSetHandler nanomdm-version\n</Location>\n"));
ok($httpd->start, 'create: starts');
$device = enroll(device());
my $good = $httpd->{config};
my ($parent) = $httpd->{pid};
for my $case (['a missing file', undef], ['an empty file', '']) {
    my ($name, $content) = @$case;
    my $other = "$httpd->{dir}/other.db";
    spew($other, $content) if defined $content;
    $httpd->configure("$good\nNanoMDMDatabase sqlite3 $other\nNanoMDMSchema check\n");
    my $mark = log_mark();
    ok(defined $httpd->signal('USR1'), "reload with $name: the old children end");
    log_like($mark, qr/NanoMDMSchema create/, '… and it is logged what to do');
    ok(NanoMDM::Httpd::is_alive($parent), '… the server runs on');
    ok(eventually { request(GET => '/version')->{status} == 200 }, '… and answers');
    my $r = report($device);
    is_status($r, 503, '… devices with 503');
    ok($r->{headers}{'retry-after'}, '… and Retry-After');
    unlink glob "$other*";
}
$httpd->configure($good);
ok(defined $httpd->signal('USR1'), 'reload with the good configuration');
ok(eventually { report($device)->{status} == 200 }, '… and all is well again');
$httpd->stop;

# what is only in memory
$httpd = server(NanoMDM::Httpd->new(config => "NanoMDMLastSeenInterval 1h\n"
    . "<Location /mdm>\nSetHandler nanomdm\n</Location>\n"));
ok($httpd->start, 'an hour between writes of last seen: starts');
$device = enroll(device());
sub last_seen { return db_value('SELECT last_seen_at FROM enrollments WHERE id = ?', $device->{id}) }

# last seen is written at the end, whatever the end is, and children end in time
for my $case (
    ['a graceful restart', 'USR1'],
    ['a graceful stop',    'WINCH'],
    ['a restart',          'HUP'],
    ['a stop',             'TERM'],
) {
    my ($name, $signal) = @$case;
    unless ($httpd->{pid}) {
        ok($httpd->start, "started again, for $name");
    }
    my $before = last_seen();
    sleep 1.1;
    is_status(report($device), 200, "$name: Idle");
    is(last_seen(), $before, '… last seen is not yet written');
    my $seconds = $httpd->signal($signal);
    ok(defined $seconds && $seconds < 6, '… the children end within 6 s')
        or diag('seconds: ', $seconds // 'more than 15');
    ok((eventually { last_seen() ne $before } 1), '… last seen is written');
    $httpd->stop if $signal eq 'TERM' || $signal eq 'WINCH';
}
unlike($httpd->log, qr/SIGKILL/, 'no child had to be killed');

# a request that runs while the server restarts is answered
$httpd = server(NanoMDM::Httpd->new(config => "<Location /mdm>\nSetHandler nanomdm\n</Location>\n"));
ok($httpd->start, 'another one');
$device = enroll(device());
my $body = report_plist($device);
my $pid  = fork() // die;
if (!$pid) {
    require POSIX;
    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $httpd->port)
        or POSIX::_exit(2);
    print {$socket} "PUT /mdm HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: "
        . length($body) . "\r\nMdm-Signature: " . sign($body, $device->{identity}) . "\r\n\r\n";
    $socket->flush;
    sleep 1.5;
    print {$socket} $body;
    $socket->flush;
    my $line = <$socket> // '';
    POSIX::_exit($line =~ m{^HTTP/1.1 200} ? 0 : 1);
}
sleep 0.5;
ok(defined $httpd->signal('USR1'), 'a graceful restart during a request');
waitpid $pid, 0;
is($? >> 8, 0, '… which is answered');
$httpd->stop;

done_testing;
