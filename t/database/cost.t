# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# What messages cost the database, as its server's own log of statements tells: an Idle with an empty
# queue is one select and no write; a result is one transaction, and one select. SQLite has no such
# log: there, the transactions in its write-ahead log are counted.

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep);

use NanoMDM::Database ();
use NanoMDM::Httpd    ();
use NanoMDM::Test;

my $driver = var('nanomdm_driver');
my $place  = var('scratch') . "/cost-$$";
mkdir $place or die "$place: $!" if $driver eq 'sqlite3';
my $database = NanoMDM::Database->new($driver, $place);
$database->{log_statements} = 1;
$database->start;
my $httpd = NanoMDM::Httpd->new(base => 0, config => <<"END_CONFIG");
NanoMDMDatabase          $database->{driver} "$database->{params}"
NanoMDMSchema            create
NanoMDMCACertificateFile \@pki\@/ca.pem
NanoMDMAPIKey            file:\@scratch\@/api.key
NanoMDMLastSeenInterval  1h
# one child, and so one connection while requests come one by one
StartServers 1
<IfModule mpm_prefork_module>
    MaxSpareServers   1
    MaxRequestWorkers 1
</IfModule>
<Location "/mdm-header">
    SetHandler nanomdm
    NanoMDMIdentity header X-Client-Cert
</Location>
\@api\@
END_CONFIG
$httpd->{dsn} = $database->{dsn};
server($httpd);
ok($httpd->start, 'starts') or diag($httpd->{output}, $httpd->log);

# --- what was sent --------------------------------------------------------------------------

# A statement's verb and tables, without what differs between databases.
sub label {
    my ($how, $sql) = @_;
    my %seen;
    my @tables = grep { !$seen{$_}++ }
        $sql =~ /(?:\b(?:FROM|JOIN|INTO)|(?<!DO )(?<!KEY )\bUPDATE) ([a-z_]+)/g;
    my ($verb) = $sql =~ /^(\w+)/;
    $verb = 'BEGIN' if $sql eq 'START TRANSACTION';
    return join ' ', ($how eq 'prepare' ? 'prepare' : ()), $verb, @tables;
}

# SQLite: the transactions that the write-ahead log holds. A frame that ends one has the size of the
# database in its header.
sub commits {
    my $wal = slurp("$database->{params}-wal");
    my ($page) = unpack 'x8 N', $wal;
    my $salts = substr $wal, 16, 8;
    my $n = 0;
    for (my $at = 32 ; $at + 24 + $page <= length $wal ; $at += 24 + $page) {
        last if substr($wal, $at + 8, 8) ne $salts;    # of an earlier round
        $n++ if unpack 'x4 N', substr $wal, $at, 8;
    }
    return $n;
}

# One test: these statements, one after the other, are all that the code made httpd send; and so many
# transactions were committed.
sub costs {
    my ($name, $code, @expected) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    if ($driver eq 'sqlite3') {
        my $before = commits();
        $code->();
        return is(commits() - $before, scalar(grep { /^COMMIT/ } @expected),
            "$name: transactions written");
    }
    sleep 0.2;    # a server may write its log after it has answered
    $database->statements;
    $code->();
    sleep 0.2;
    return is(join("\n", map { label(@$_) } $database->statements), join("\n", @expected), $name);
}

# --- messages -------------------------------------------------------------------------------

my @device = map { enroll(device(source => 'header')) } 1 .. 40;
my $device = $device[0];
my $r;

sub enqueue {
    my ($n) = @_;
    my ($text, $uuid) = command_plist('ProfileList');
    $r = api(PUT => 'enqueue/' . join(',', map { $_->{id} } @device[ 0 .. $n - 1 ]) . '?nopush=1', $text);
    return $uuid;
}

# A connection prepares each statement once: all of them are used once here.
my @uuid = map { enqueue(1) } 1 .. 4;
push @uuid, enqueue(40);
report($device);
report($device, Status => 'NotNow', CommandUUID => $uuid[0]);
report($device, Status => 'Acknowledged', CommandUUID => $_) for @uuid, @uuid;
$r = report($device);
is("$r->{status} $r->{body}", '200 ', 'all is prepared, and the queue is empty');

my $next    = 'SELECT cert_auth_associations enrollment_queue command_results';
my $command = 'SELECT commands';
my @add     = ('BEGIN', 'SELECT enrollments', 'INSERT commands',
    'INSERT enrollment_queue enrollments', 'COMMIT');
my @result  = ('BEGIN', 'SELECT cert_auth_associations',
    'INSERT command_results enrollment_queue', 'UPDATE enrollment_queue', 'COMMIT');
my @not_now = grep { !/^UPDATE/ } @result;
# The same content once more: where that counts as no row, it looks whether there is one.
my @repeated = @result;
$repeated[3] = 'SELECT enrollment_queue' if $driver eq 'mysql';

costs('Idle, empty queue', sub { $r = report($device) }, $next);
is("$r->{status} $r->{body}", '200 ', '… answered');
costs('ten of them', sub { report($device) for 1 .. 10 }, ($next) x 10);
my $uuid;
costs('enqueue', sub { $uuid = enqueue(1) }, @add);
is_status($r, 200, '… answered');
costs('Idle, a command waits', sub { $r = report($device) }, $next, $command);
like($r->{body}, qr/\Q$uuid\E/, '… which is sent');
costs('NotNow', sub { $r = report($device, Status => 'NotNow', CommandUUID => $uuid) }, @not_now,
    $next);
is("$r->{status} $r->{body}", '200 ', '… answered');
costs('Acknowledged', sub { $r = report($device, Status => 'Acknowledged', CommandUUID => $uuid) },
    @result, $next);
is("$r->{status} $r->{body}", '200 ', '… answered');
costs('Acknowledged again',
    sub { $r = report($device, Status => 'Acknowledged', CommandUUID => $uuid) }, @repeated, $next);
is("$r->{status} $r->{body}", '200 ', '… answered');
@uuid = map { enqueue(1) } 1, 2;
costs('Error, and the next command waits',
    sub { $r = report($device, Status => 'Error', CommandUUID => $uuid[0]) }, @result, $next,
    $command);
like($r->{body}, qr/\Q$uuid[1]\E/, '… which is sent');
costs('enqueue to 40', sub { enqueue(40) }, @add);
is_status($r, 200, '… answered');
my $stranger = device(source => 'header');
costs('Idle of a stranger', sub { $r = report($stranger) }, $next);
is_status($r, 400, '… refused');

# when they were last seen, of all at once
report($_) for @device;
costs('the end', sub { $httpd->stop }, 'BEGIN', 'prepare UPDATE enrollments',
    'UPDATE enrollments', 'COMMIT')
    unless $driver eq 'sqlite3';    # which empties its log when the last connection ends
$httpd->stop;
$database->stop;

done_testing;
