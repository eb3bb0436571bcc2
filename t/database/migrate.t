# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# nanomdm-migrate. copy: everything that a server has stored goes to a database of another kind and
# back, unchanged, and a server on the copy goes on where the first one was. replay: the check-ins go
# to a server with an empty database, through interruptions and outages, each in its order.
# MPMs: event worker (each run takes long)

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET ();
use MIME::Base64     qw(decode_base64);
use POSIX            ();
use Time::HiRes      qw(sleep time);

use NanoMDM::Database ();
use NanoMDM::Test;

my $driver  = var('nanomdm_driver');
my $scratch = var('scratch') . "/migrate-$$";
mkdir $scratch or die "$scratch: $!";

my $locations = <<'END_CONFIG';
<Location "/mdm-header">
    SetHandler nanomdm
    NanoMDMIdentity header X-Client-Cert
</Location>
@api@
<Location "/migration">
    SetHandler nanomdm-migration
    AuthType Basic
    AuthName "nanomdm"
    AuthBasicProvider nanomdm
    Require valid-user
</Location>
END_CONFIG

# A server on tables with a prefix, which the run's database has not yet.
my $tag = sprintf '%x', $$;
sub httpd {
    my ($name) = @_;
    return NanoMDM::Httpd->new(config => "NanoMDMTablePrefix ${name}_${tag}_\n$locations");
}

sub dsn_of { my ($httpd) = @_; return $httpd->{dsn} // "dbi:SQLite:dbname=$httpd->{database}" }

# What --from and --to take, for a server's database.
sub database_of {
    my ($httpd) = @_;
    return $httpd->{dsn} ? var('nanomdm_database') : "sqlite3 $httpd->{database}";
}

sub migrate { return tool('nanomdm-migrate', @_) }

sub migrate_ok {
    my ($name, @args) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($status, $output) = migrate(@args);
    is($status, 0, $name) or diag($output);
    return $output;
}

sub migrate_fails {
    my ($name, $status, $pattern, @args) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my ($exit, $output) = migrate(@args);
    is($exit, $status, $name) or diag($output);
    like($output, $pattern, '… and says why');
    return $output;
}

# Start it, and call the code while it runs; returns its exit status and output.
sub meanwhile {
    my ($code, @args) = @_;
    my $file = "$scratch/said";
    my $pid  = fork() // die "fork: $!";
    if (!$pid) {
        open STDOUT, '>', $file        or POSIX::_exit(1);
        open STDERR, '>&', \*STDOUT    or POSIX::_exit(1);
        { no warnings; exec var('bindir') . '/nanomdm-migrate', @args }
        POSIX::_exit(127);
    }
    $code->($pid);
    waitpid $pid, 0;
    return ($? & 127 ? -($? & 127) : $? >> 8, slurp($file));
}

my @tables = qw(devices users enrollments commands command_results enrollment_queue push_certs
    cert_auth_associations mdm_dead_tokens);

# All rows of all tables, as text; whole: times without their fractions.
sub dump_of {
    my ($dsn, $prefix, %o) = @_;
    my $dbh = NanoMDM::Database::connect_to($dsn);
    my %dump;
    for my $table (@tables) {
        my $rows = $dbh->selectall_arrayref("SELECT * FROM $prefix$table", { Slice => {} });
        $dump{$table} = join "\n", sort map {
            my $row = $_;
            join '|', map { "$_=" . value($row->{$_}, $_, %o) } sort keys %$row
        } @$rows;
    }
    return \%dump;
}

sub value {
    my ($value, $column, %o) = @_;
    return 'NULL' unless defined $value;
    utf8::encode($value) if utf8::is_utf8($value);
    return unpack 'H*', $value if $column eq 'unlock_token';
    if ($column =~ /_at$/) {
        $value =~ s/\.\d+$//    if $o{whole};
        $value =~ s/(\.\d*?)0+$/$1/;
        $value =~ s/\.$//;
    }
    return $value;
}

sub same {
    my ($got, $expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @differ = grep { $got->{$_} ne $expected->{$_} } @tables;
    is("@differ", '', $name)
        or diag(map { "$_:\n$got->{$_}\n--\n$expected->{$_}\n" } $differ[0]);
}

# --- a server with a bit of everything --------------------------------------------------------

my $source = httpd('src');
server($source);
ok($source->start, 'a server') or diag($source->{output}, $source->log);
my $src = "src_${tag}_";

my $mac   = enroll(device(source => 'header'));
my $jane  = enroll(device(parent => $mac, short_name => "j'a\\ne", long_name => "J\xC3\xA4ne %s \"D\" {p}"));
my $phone = device(source => 'header');
$phone->{ids} = { EnrollmentID => $phone->{id} };
delete $phone->{serial};
enroll($phone, 'a user enrollment');
my $token = device(source => 'header');
is_status(checkin($token, 'Authenticate'), 200, 'Authenticate');
is_status(checkin($token, 'TokenUpdate', UnlockToken => data("\0\x01'\\\xff\xfe" x 2000)), 200,
    'with an unlock token');
is_status(checkin($token, 'SetBootstrapToken', BootstrapToken => data("\0boot")), 200,
    'with a bootstrap token');
my $gone = enroll(device(source => 'header'));
is_status(checkin($gone, 'CheckOut'), 200, 'one that checked out');
my $half = device(source => 'header');
is_status(checkin($half, 'Authenticate'), 200, 'one without TokenUpdate');

sub enqueue {
    my ($id, %members) = @_;
    my ($text, $uuid) = command_plist('ProfileList', %members);
    is_status(api(PUT => "enqueue/$id?nopush=1", $text), 200, 'enqueued');
    return $uuid;
}

my %uuid = map { ($_ => enqueue("$mac->{id},$jane->{id}")) } qw(Acknowledged Error NotNow);
for my $status (sort keys %uuid) {
    is_status(report($mac, Status => $status, CommandUUID => $uuid{$status},
        Note => "\xE2\x82\xAC <&> %d 'x' \\n {p}{v}"), 200, $status);
}
# In the order of arrival, not in that of names; and one whose text is larger than what a prepared
# select gives.
my @order = map { enqueue($token->{id}, CommandUUID => sprintf '%s-%s', chr(ord('Z') - $_), uuid()) } 0 .. 5;
push @order, enqueue($token->{id}, Blob => 'x' x 2_000_000);
push @order, enqueue($token->{id}, CommandUUID => 'A-' . uuid());

{
    my $dbh = NanoMDM::Database::connect_to(dsn_of($source));
    $dbh->do("INSERT INTO ${src}push_certs (topic, cert_pem, key_pem, stale_token, created_at, updated_at)"
        . " VALUES ('com.apple.mgmt.x', '-----BEGIN CERTIFICATE-----\nx', '-----BEGIN KEY', 7,"
        . " '2020-02-29 12:34:56', '2021-01-01 00:00:00')");
    $dbh->do("INSERT INTO ${src}mdm_dead_tokens (id, token_hex, reason, created_at)"
        . " VALUES ('x', 'ab', 'Unregistered', '2020-02-29 12:34:56')");
    # a long queue, finished
    $dbh->do("INSERT INTO ${src}commands (command_uuid, request_type, command) VALUES (?, 'x', '<?xml')",
        undef, $_) for map { sprintf 'old-%04d', $_ } 1 .. 1100;
    $dbh->do("INSERT INTO ${src}enrollment_queue (id, command_uuid, active) SELECT '$mac->{id}',"
        . " command_uuid, FALSE FROM ${src}commands WHERE command_uuid LIKE 'old-%'");
}
$source->stop;

# --- copy: there and back ---------------------------------------------------------------------

my $from = database_of($source);
my $file = "$scratch/copy.db";
my @from = ('--from', $from, '--from-prefix', $src);
my $dump = dump_of(dsn_of($source), $src);
my $whole = dump_of(dsn_of($source), $src, whole => 1);
isnt($dump->{$_}, '', "there is something in $_") for @tables;

my $output = migrate_ok('copy --dry-run', 'copy', @from, '--to', "sqlite3 $file", '--dry-run');
like($output, qr/^devices\s+5 to copy$/m, '… counts');
ok(!-e $file, '… and writes nothing');

$output = migrate_ok('copy to SQLite', 'copy', @from, '--to', "sqlite3 $file", '--verify');
like($output, qr/^devices\s+5 read,\s+5 written,\s+0 there already,\s+0 refused,\s+5 in the target$/m,
    '… tells what was done');
like($output, qr/all values are the same/, '… and compares');
same(dump_of("dbi:SQLite:dbname=$file", ''), $dump, '… everything is the same');
same(dump_of(dsn_of($source), $src), $dump, '… and the source is as it was');

my $target = httpd('dst');
my $dst = "dst_${tag}_";
$target->{database} = "$scratch/back.db" if $driver eq 'sqlite3';
my $to = database_of($target);
my @to = ('--to', $to, '--to-prefix', $dst);
$output = migrate_ok('copy from SQLite', 'copy', '--from', "sqlite3 $file", @to, '--verify');
same(dump_of(dsn_of($target), $dst), $dump, '… everything is the same as in the first one');

migrate_fails('a target with rows', 2, qr/devices has 5 rows already; with --resume/,
    'copy', '--from', "sqlite3 $file", @to);
{
    my $dbh = NanoMDM::Database::connect_to(dsn_of($target));
    $dbh->do("DELETE FROM ${dst}devices WHERE id = ?", undef, $mac->{id});
    $dbh->do("DELETE FROM ${dst}commands WHERE command_uuid = ?", undef, $order[3]);
}
$output = migrate_ok('copy --resume', 'copy', '--from', "sqlite3 $file", @to, '--resume', '--verify');
like($output, qr/^devices\s+5 read,\s+1 written,\s+4 there already/m, '… adds what is missing');
same(dump_of(dsn_of($target), $dst), $dump, '… and all is there again');
migrate_ok('copy --resume when all is there', 'copy', @from, @to, '--resume', '--verify');
{
    my $dbh = NanoMDM::Database::connect_to(dsn_of($target));
    $dbh->do("UPDATE ${dst}enrollments SET push_magic = 'other' WHERE id = ?", undef, $mac->{id});
    migrate_fails('--verify sees a changed value', 1, qr/enrollments: the values are not the same/,
        'copy', @from, @to, '--resume', '--verify');
    $dbh->do("UPDATE ${dst}enrollments SET push_magic = ? WHERE id = ?", undef, $mac->{magic}, $mac->{id});
}

# the devices go on at a server on the copy
{
    $target->configure("NanoMDMDatabase sqlite3 $target->{database}\nNanoMDMTablePrefix $dst\n$locations")
        if $driver eq 'sqlite3';
    server($target);
    ok($target->start, 'a server on the copy') or diag($target->{output}, $target->log);
    is_status(report($mac), 200, 'a device is known there');
    is_status(report($jane), 200, '… and its user');
    is_status(report($phone), 200, '… and the user enrollment');
    my (@served, $done);
    while (1) {
        my $r = report($token, $done ? (Status => 'Acknowledged', CommandUUID => $done) : ());
        is_status($r, 200, 'the queue goes on');
        ($done) = $r->{body} =~ m{<key>CommandUUID</key>\s*<string>([^<]*)} or last;
        push @served, $done;
    }
    is("@served", "@order", '… in the order of arrival');
    like(checkin($token, 'GetBootstrapToken')->{body}, qr/AGJvb3Q=/, '… with the bootstrap token');
    $target->stop;
}

# a source with rows that the schema does not allow
{
    my $odd = "$scratch/odd.db";
    migrate_ok('a copy to spoil', 'copy', @from, '--to', "sqlite3 $odd");
    my $dbh = NanoMDM::Database::connect_to("dbi:SQLite:dbname=$odd");
    $dbh->do('PRAGMA ignore_check_constraints = ON');
    $dbh->do("UPDATE devices SET serial_number = '' WHERE id = ?", undef, $gone->{id});
    $dbh->do("UPDATE commands SET command = 'no plist' WHERE command_uuid = 'old-0007'");
    $dbh->do("UPDATE commands SET created_at = 'yesterday' WHERE command_uuid = 'old-0008'");
    $dbh->disconnect;
    my $place = $driver eq 'sqlite3' ? "sqlite3 $scratch/refused.db" : $to;
    $output = migrate_fails('rows that are refused', 1, qr/devices: the row "\Q$gone->{id}\E" was refused: /,
        'copy', '--from', "sqlite3 $odd", '--to', $place, '--to-prefix', "ref_${tag}_");
    like($output, qr/commands: the row "old-0007" was refused: /, '… each');
    like($output, qr/commands: the row "old-0008" was refused: created_at is not a time/, '… with why');
    like($output, qr/enrollment_queue: the row "\Q$mac->{id}\E, old-0007" was refused: /,
        '… and what rests on them');
    like($output, qr/^enrollment_queue .* 2 refused/m, '… and no more');
}

# PostgreSQL keeps local times of whatever zone the session has
if ($driver eq 'pgsql') {
    my $east = $from =~ s/"$/ options='-c timezone=Asia\/Tokyo'"/r;
    migrate_ok('copy from another time zone', 'copy', '--from', $east, '--from-prefix', $src,
        '--to', "sqlite3 $scratch/tz.db");
    my $sql = 'SELECT created_at FROM push_certs';
    my $dbh = NanoMDM::Database::connect_to("dbi:SQLite:dbname=$scratch/tz.db");
    is($dbh->selectrow_array($sql), '2020-02-29 03:34:56', '… gives UTC');
    migrate_ok('… and back', 'copy', '--from', "sqlite3 $scratch/tz.db", '--to',
        $east, '--to-prefix', "tz_${tag}_", '--verify');
    same(dump_of(dsn_of($source), "tz_${tag}_"), $dump, '… is what it was');

    # to the third kind, and back: its times are whole seconds but for the queue's
    my $other = NanoMDM::Database->new('mysql', "$scratch/mysql")->start;
    my $params = qq(mysql "$other->{params}");
    migrate_ok('copy to MariaDB', 'copy', @from, '--to', $params, '--verify');
    same(dump_of($other->{dsn}, '', whole => 1), $whole, '… everything is the same');
    migrate_ok('… and back', 'copy', '--from', $params, '--to', $to, '--to-prefix', "my_${tag}_", '--verify');
    my $back = dump_of(dsn_of($source), "my_${tag}_", whole => 1);
    same($back, $whole, '… is the same');
    $sql = 'SELECT id, command_uuid FROM %senrollment_queue WHERE active ORDER BY id, created_at';
    $dbh = NanoMDM::Database::connect_to(dsn_of($source));
    is_deeply($dbh->selectall_arrayref(sprintf $sql, "my_${tag}_"),
        $dbh->selectall_arrayref(sprintf $sql, $src), '… in the same order');
    $other->stop;
}

# interrupted, and killed
{
    my $many = "$scratch/many.db";
    migrate_ok('a database', 'copy', @from, '--to', "sqlite3 $many");
    my $dbh = NanoMDM::Database::connect_to("dbi:SQLite:dbname=$many");
    $dbh->do('INSERT INTO devices (id, authenticate, authenticate_at) WITH RECURSIVE n (i) AS'
        . " (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000) SELECT 'N-' || i,"
        . ' hex(zeroblob(500)), CURRENT_TIMESTAMP FROM n');
    $dbh->do("INSERT INTO enrollments (id, device_id, type, topic, push_magic, token_hex, last_seen_at)"
        . " SELECT id, id, 'Device', 't', 'm', 'ab', CURRENT_TIMESTAMP FROM devices WHERE id LIKE 'N-%'");
    for my $case ([INT => 1, qr/--resume goes on/], [KILL => -9, qr//]) {
        my ($signal, $expected, $pattern) = @$case;
        my $copy = "$scratch/$signal.db";
        my ($status, $said) = meanwhile(sub {
            my ($pid) = @_;
            eventually {
                -s $copy && eval {
                    my $h = NanoMDM::Database::connect_to("dbi:SQLite:dbname=$copy");
                    ($h->selectrow_array('SELECT count(*) FROM devices'))[0] > 1000;
                }
            } 20;
            kill $signal, $pid;
        }, 'copy', '--from', "sqlite3 $many", '--to', "sqlite3 $copy");
        is($status, $expected, "copy, $signal") or diag($said);
        like($said, $pattern, '… says how to go on');
        migrate_ok('… resumed', 'copy', '--from', "sqlite3 $many", '--to', "sqlite3 $copy", '--resume',
            '--verify');
    }
}

# --- replay -----------------------------------------------------------------------------------

my $plain = httpd('rep');
server($plain);
ok($plain->start, 'a server with an empty database') or diag($plain->{output}, $plain->log);
my $rep = "rep_${tag}_";
my $key = 'file:' . var('scratch') . '/api.key';
my @url = ('--to-url', 'http://127.0.0.1:' . $plain->port . '/migration');
my @rest = ('--api-key', $key, '--patience', 20);
sub count_of { my ($table) = @_; return db_value("SELECT count(*) FROM $rep$table") }

$output = migrate_ok('replay --dry-run', 'replay', @from, @url, @rest, '--dry-run');
like($output, qr/^TokenUpdate \Q$jane->{id}\E$/m, '… lists');
like($output, qr/^would send 3 devices with 7 messages; left out: 2 disabled/m, '… and counts');
is(count_of('devices'), 0, '… and sends nothing');
$output = migrate_fails('replay with a wrong key', 1, qr/refuses this caller: is --api-key right/,
    'replay', @from, @url, '--api-key', 'wrong');
like($output, qr/^sent 0 devices with 0 messages/m, '… at once');
migrate_fails('replay to a wrong path', 1, qr/no migration endpoint/,
    'replay', @from, '--to-url', $url[1] . 's', @rest);

$output = migrate_ok('replay', 'replay', @from, @url, @rest);
like($output, qr/^sent 3 devices with 7 messages; left out: 2 disabled/m, '… says what was sent');
sub messages_of {
    my ($dsn, $prefix, $where) = @_;
    my $dbh = NanoMDM::Database::connect_to($dsn);
    return {
        devices => $dbh->selectall_arrayref("SELECT id, authenticate, token_update, serial_number"
            . " FROM ${prefix}devices WHERE $where ORDER BY id"),
        users => $dbh->selectall_arrayref("SELECT id, token_update, user_short_name, user_long_name"
            . " FROM ${prefix}users ORDER BY id"),
        enrollments => [map { $_->[2] = !!$_->[2]; $_ } @{ $dbh->selectall_arrayref(
            "SELECT id, type, enabled, topic, push_magic, token_hex FROM ${prefix}enrollments"
            . " WHERE " . ($where =~ s/\bid\b/device_id/gr) . " ORDER BY id") }],
    };
}
my $enabled = "id IN ('$mac->{id}', '$phone->{id}', '$token->{id}')";
is_deeply(messages_of(dsn_of($plain), $rep, '1 = 1'), messages_of(dsn_of($source), $src, $enabled),
    '… the enrollments are the same, byte for byte');
$output = migrate_ok('replay --all', 'replay', @from, @url, @rest, '--all');
like($output, qr/^sent 5 devices with 10 messages; left out: 0 disabled/m, '… disabled ones too');
is(count_of('devices'), 5, '… they are there');
$plain->stop;

# over TLS, to the server of all suites
server(undef);
my @tls = ('--to-url', 'https://localhost:' . port('tls') . '/migration');
migrate_fails('replay to a server whose certificate is not trusted', 1, qr/certificate is not trusted/,
    'replay', @from, @tls, @rest);
$output = migrate_ok('… with its authority', 'replay', @from, @tls, @rest, '--ca-file',
    pki->cert('other_ca'));
like($output, qr/^sent 3 devices with 7 messages/m, '… is sent');

# many devices, one of which no server takes
my $many = "$scratch/fleet.db";
{
    migrate_ok('a database', 'copy', @from, '--to', "sqlite3 $many");
    my $dbh = NanoMDM::Database::connect_to("dbi:SQLite:dbname=$many");
    $dbh->do('DELETE FROM devices');
    $dbh->begin_work;
    for (1 .. 400) {
        my $device = device(source => 'header', identity => 'rsa');
        $dbh->do('INSERT INTO devices (id, authenticate, authenticate_at, token_update) VALUES'
            . ' (?, ?, CURRENT_TIMESTAMP, ?)', undef, $device->{id},
            checkin_plist($device, 'Authenticate'),
            $_ == 77 ? '<?xml no plist' : checkin_plist($device, 'TokenUpdate'));
        $dbh->do('INSERT INTO enrollments (id, device_id, type, topic, push_magic, token_hex, last_seen_at)'
            . " VALUES (?, ?, 'Device', 't', 'm', 'ab', CURRENT_TIMESTAMP)", undef, ($device->{id}) x 2);
    }
    $dbh->commit;
}
my @many = ('--from', "sqlite3 $many", @rest);

my $state = "$scratch/state";
for my $case ([INT => 1, qr/the same command, with the same --state, goes on/, 0],
    [TERM => 1, qr/the same --state, goes on/, 0], [KILL => -9, qr//, 4]) {
    my ($signal, $expected, $pattern, $again) = @$case;
    my $httpd = httpd(lc $signal);
    server($httpd);
    my $prefix = lc($signal) . "_${tag}_";
    ok($httpd->start, 'a server') or diag($httpd->{output}, $httpd->log);
    my @args = (@many, '--to-url', 'http://127.0.0.1:' . $httpd->port . '/migration',
        '--state', "$state-$signal", '--concurrency', 4);
    my ($status, $said) = meanwhile(sub {
        my ($pid) = @_;
        eventually { db_value("SELECT count(*) FROM ${prefix}devices") > 20 } 20;
        kill $signal, $pid;
    }, 'replay', @args);
    is($status, $expected, "replay, $signal") or diag($said);
    like($said, $pattern, '… says how to go on');
    my $there = db_value("SELECT count(*) FROM ${prefix}devices");
    cmp_ok($there, '<', 400, '… before the end');
    $output = migrate_fails('… resumed', 1, qr/TokenUpdate was refused: HTTP status 400/, 'replay', @args);
    my ($sent, $before) = $output =~ /^sent (\d+) devices .* (\d+) sent before; 1 messages failed$/m;
    is(($sent // 0) + ($before // 0), 399, '… all were sent, but for one') or diag($output);
    cmp_ok($before // 0, '>=', $there - 1 - $again, '… what was done is not sent again');
    is(db_value("SELECT count(*) FROM ${prefix}enrollments WHERE enabled = TRUE"), 399,
        '… and are enrolled');
    $output = migrate_fails('… once more', 1, qr/^sent 0 devices with 1 messages; left out: 0 disabled, 399 sent before/m,
        'replay', @args);
    $httpd->stop;
}
migrate_fails('a state of another target', 2, qr/not of a run with this --to-url/,
    'replay', @many, @url, '--state', "$state-INT");

# a server that is not there yet
server($plain);
{
    my ($status, $said) = meanwhile(sub { sleep 1.5; ok($plain->start, 'the server comes') },
        'replay', @from, @url, @rest);
    is($status, 0, 'replay while the server is down for a while') or diag($said);
    like($said, qr/trying again for 20 s/, '… says so');
    $plain->stop;
    my $begun = time;
    migrate_fails('… for longer', 1, qr/has not taken anything for 1 s/,
        'replay', @from, @url, '--api-key', $key, '--patience', 1);
    cmp_ok(time - $begun, '<', 10, '… ends in a bounded time');
}

# what goes over the wire, with a peer that fails as told: the n-th request gets the n-th answer
sub peer {
    my (@answers) = @_;
    my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 20) or die $!;
    my $log = "$scratch/peer-" . $listener->sockport;
    my $pid = fork() // die "fork: $!";
    if (!$pid) {
        while (my $socket = $listener->accept) {
            my $text = '';
            while ($text !~ /\r\n\r\n/ || length($text =~ s/.*?\r\n\r\n//sr)
                < ($text =~ /^content-length: (\d+)/im ? $1 : 0)) {
                sysread $socket, $text, 65536, length $text or last;
            }
            my $answer = @answers ? shift @answers : 200;
            open my $fh, '>>', $log or POSIX::_exit(1);
            print {$fh} "$answer\n$text\n=====\n";
            close $fh;
            syswrite $socket, "HTTP/1.1 $answer x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                if $answer;
            close $socket;
        }
        POSIX::_exit(0);
    }
    return ($listener->sockport, $pid, $log);
}
{
    my ($port, $pid, $log) = peer(503, 0, 200, 503, 500, 200, 400);
    my ($status, $said) = migrate('replay', @from, '--to-url', "http://127.0.0.1:$port/m", '--api-key',
        'the key', '--concurrency', 1);
    is($status, 1, 'replay to a server that fails now and then') or diag($said);
    like($said, qr/was refused: HTTP status 400/, '… one message is refused');
    my @requests = split /\n=====\n/, slurp($log);
    kill 'KILL', $pid;
    waitpid $pid, 0;
    is(join(' ', map { /^(\d+)/ } @requests[0 .. 6]), '503 0 200 503 500 200 400',
        '… 503, 500 and a lost connection are tried again, 400 is not');
    is(scalar(grep { !m{\APUT /m HTTP/1\.1\r\n} } map { s/^\d+\n//r } @requests), 0, '… PUT');
    is(scalar(grep { !m{^Content-Type: application/x-apple-aspen-mdm-checkin\r$}m } @requests), 0,
        '… with the content type of check-ins');
    my ($login) = $requests[0] =~ /^Authorization: Basic (\S+)/m;
    is(decode_base64($login // ''), 'nanomdm:the key', '… and the login');
    my @kinds = map { m{<string>(Authenticate|TokenUpdate)</string>} } @requests;
    is("@kinds[0 .. 5]", 'Authenticate Authenticate Authenticate TokenUpdate TokenUpdate TokenUpdate',
        '… a message only after the one before was taken');
}

# --- mistakes -----------------------------------------------------------------------------------

for my $case (
    ['no command', qr/give one command/],
    ['an unknown command', qr/there is no command "move"/, 'move'],
    ['an unknown option', qr/--help/, 'copy', '--form', 'x'],
    ['no source', qr/give --from/, 'copy', '--to', "sqlite3 $scratch/x"],
    ['no target', qr/give --to/, 'copy', @from],
    ['two sources', qr/give --from/, 'copy', @from, '--from-conf', 'x', @to],
    ['an unknown driver', qr/unknown database driver "db2"/, 'copy', '--from', 'db2 x', @to],
    ['no such file', qr/there is no database file/, 'copy', '--from', "sqlite3 $scratch/none", @to],
    ['the same', qr/are the same/, 'copy', '--from', $from, '--to', $from],
    ['a prefix', qr/--to-prefix: "x;" is no prefix/, 'copy', @from, '--to', $to, '--to-prefix', 'x;'],
    ['a prefix that begins with a digit', qr/--from-prefix: "1x" is no prefix/, 'copy', '--from', $from,
        '--from-prefix', '1x', @to],
    ['a URL', qr/give --to-url/, 'replay', @from, '--to-url', 'ftp://x/', '--api-key', 'x'],
    ['no key', qr/give --api-key/, 'replay', @from, @url],
    ['no key file', qr/--api-key: /, 'replay', @from, @url, '--api-key', "file:$scratch/none"],
    ['concurrency', qr/--concurrency takes/, 'replay', @from, @url, '--concurrency', 0],
    ['an option of copy', qr/replay does not take --resume/, 'replay', @from, @url, '--resume'],
    ['an option of replay', qr/copy does not take --all/, 'copy', @from, @to, '--all'],
) {
    my ($name, $pattern, @args) = @$case;
    migrate_fails($name, 2, $pattern, @args);
}
migrate_fails('no tables', 1, qr/not all there/, 'copy', '--from', $from, '--from-prefix', 'none_', @to,
    '--resume');
for my $case (
    ['a prefix', qr/--to-conf: "x;" is no prefix/, "NanoMDMDatabase $to\nNanoMDMTablePrefix x;\n"],
    ['a relative path', qr/ServerRoot.*--to$/m, "NanoMDMDatabase sqlite3 relative-$tag.db\n"],
    ['a variable', qr/variable.*--to$/m, "NanoMDMDatabase sqlite3 \${STATE}/nanomdm.db\n"],
) {
    my ($name, $pattern, $text) = @$case;
    spew("$scratch/wrong.conf", $text);
    migrate_fails("$name in a configuration", 2, $pattern, 'copy', @from, '--to-conf', "$scratch/wrong.conf");
}
ok(!-e "relative-$tag.db", '… and no file was made');
like(migrate_ok('--help', '--help'), qr/^Usage: nanomdm-migrate copy/, '… is the usage');
like(migrate_ok('--version', '--version'), qr/^nanomdm-migrate v\d/, '… is the version');
{
    spew("$scratch/site.conf", "NanoMDMDatabase $from\nNanoMDMTablePrefix $src\n");
    spew("$scratch/database", $from);
    like(migrate_ok('--from-conf', 'replay', '--dry-run', '--from-conf', "$scratch/site.conf"),
        qr/would send 3 devices/, '… is read');
    like(migrate_ok('--from file:', 'replay', '--dry-run', '--from', "file:$scratch/database",
        '--from-prefix', $src), qr/would send 3 devices/, '… is read');
}

done_testing;
