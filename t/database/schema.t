# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# nanomdm-schema: what a database lacks, and the upgrade: of a NanoMDM database, of an older one of
# ours, twice, by two at once, by hand, and after it was killed. All data stay as they are.

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET ();
use POSIX            ();
use Time::HiRes      qw(sleep time);

use NanoMDM::Test;

my $driver = var('nanomdm_driver');
my $is_server = $driver ne 'sqlite3';
my $fixture = var('top_dir') . "/t/database/nanomdm.$driver.sql";
my @tables = qw(devices users enrollments commands command_results enrollment_queue push_certs
    cert_auth_associations);
my $count = 0;
my ($params, $prefix, $handle);    # of the database that is looked at

# An empty database.
sub fresh {
    $prefix = $_[0] // '';
    $handle = undef;
    $count++;
    my ($all) = var('nanomdm_database') =~ /^\w+\s+"?([^"]*)/;
    $params = $is_server ? NanoMDM::Database::another($driver, $all, "nanomdm_schema_$count")
        : var('scratch') . "/schema-$$-$count.db";
    NanoMDM::Database::connect_to("dbi:SQLite:dbname=$params")->do('PRAGMA user_version = 1')
        unless $is_server;
    return;
}

sub handle { return $handle ||= NanoMDM::Database::connect_to(NanoMDM::Database::dsn($driver, $params)) }
sub database { return ('--database', "$driver $params", length $prefix ? ('--prefix', $prefix) : ()) }
sub schema { my ($command, @more) = @_; return tool('nanomdm-schema', $command, database(), @more) }

# One test: all there is to say is that nothing is missing.
sub is_complete {
    my ($name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(join(' ', schema('status')), "0 Nothing is missing.\n", $name);
}

# A NanoMDM database, with more rows than its fixture has.
sub nanomdm {
    fresh(@_);
    my $dbh = handle();
    NanoMDM::Database::load($dbh, $fixture, p => $prefix, sha256 => 'a' x 64,
        sha256_ipad => 'b' x 64, sha256_byod => 'c' x 64);
    my $fill = $dbh->prepare("INSERT INTO ${prefix}commands (command_uuid, request_type, command)"
        . " VALUES (?, 'ProfileList', ?)");
    my $queue = $dbh->prepare("INSERT INTO ${prefix}enrollment_queue (id, command_uuid) VALUES ('IPAD-1', ?)");
    $dbh->begin_work;
    for (1 .. 200) {
        $fill->execute("more-$_", '<?xml' . 'x' x 1000);
        $queue->execute("more-$_");
    }
    $dbh->commit;
    return $dbh;
}

my $final = 'EXISTS (SELECT 1 FROM {p}command_results AS r'
    . " WHERE r.id = q.id AND r.command_uuid = q.command_uuid AND r.status <> 'NotNow')";

# Everything in it, but whether finished commands count as waiting, as NanoMDM leaves them.
sub rows {
    my %rows;
    for my $table (@tables) {
        my @selects = $table ne 'enrollment_queue' ? "SELECT * FROM {p}$table" : (
            "SELECT q.* FROM {p}enrollment_queue AS q WHERE NOT $final",
            "SELECT q.id, q.command_uuid, q.priority, q.created_at FROM {p}enrollment_queue AS q WHERE $final",
        );
        $rows{$table} = [
            sort map { join '|', map { NanoMDM::Database::normalize($_) // 'NULL' } @$_ }
            map { @{ handle()->selectall_arrayref(s/\{p\}/$prefix/gr) } } @selects
        ];
    }
    return \%rows;
}

# How many finished commands count as waiting.
sub unsettled {
    return scalar handle()->selectrow_array(
        "SELECT count(*) FROM {p}enrollment_queue AS q WHERE q.active = TRUE AND $final" =~ s/\{p\}/$prefix/gr);
}

sub foreign_keys {
    return join ' ', sort map { $_->[0] } @{ handle()->selectall_arrayref(
        'SELECT constraint_name FROM information_schema.table_constraints WHERE constraint_type = ?'
        . ' AND table_schema = ' . ($driver eq 'mysql' ? 'DATABASE()' : 'current_schema()'),
        undef, 'FOREIGN KEY') };
}

# mistakes
for my $case (
    ['nothing',         [],                                               qr/status or upgrade/],
    ['no database',     ['status'],                                       qr/--database.*--conf/],
    ['another command', ['drop', '--database', 'sqlite3 /x'],             qr/status or upgrade/],
    ['two commands',    ['status', 'upgrade', '--database', 'sqlite3 /x'], qr/what is "upgrade"/],
    ['both',            ['status', '--database', 'sqlite3 /x', '--conf', '/x'], qr/either/],
    ['a wrong option',  ['status', '--force'],                            qr/--help/],
    ['dry-run of status', ['status', '--dry-run', '--database', 'sqlite3 /x'], qr/--dry-run/],
    ['a driver',        ['status', '--database', 'oracle x'],             qr/sqlite3, pgsql or mysql/],
    ['no such file',    ['status', '--database', 'sqlite3 /nowhere/x.db'], qr{/nowhere/x\.db does not exist}],
    ['no such conf',    ['status', '--conf', '/nowhere/x.conf'],          qr{/nowhere/x\.conf}],
    ['a prefix',        ['status', '--database', 'sqlite3 /x', '--prefix', "a'b"], qr/no prefix/],
    ['an unreachable server', ['status', '--database',
        'pgsql host=127.0.0.1 port=1 dbname=x connect_timeout=2'],        qr/cannot connect/],
) {
    my ($name, $args, $pattern) = @$case;
    my ($status, $output) = tool('nanomdm-schema', @$args);
    is($status, 2, "a mistake: $name");
    like($output, $pattern, '… is named');
}

# configurations that only httpd reads as they are meant
my $conf = var('scratch') . "/schema-$$.conf";
for my $case (
    ['no database',     "Include other.conf\n",                                   qr/files that it includes are not read: .*--database/],
    ['a variable',      "NanoMDMDatabase sqlite3 \"/x/\${NAME}.db\"\n",                 qr/variable.*--database/],
    ['one as prefix',   "NanoMDMDatabase sqlite3 /x\nNanoMDMTablePrefix \${P}\n", qr/variable.*--database/],
    ['a relative path', "NanoMDMDatabase sqlite3 state/nanomdm.db\n",             qr{state/nanomdm\.db.*ServerRoot.*--database}],
    ['a prefix',        "NanoMDMDatabase sqlite3 /x\nNanoMDMTablePrefix 1x\n",    qr/"1x" is no prefix/],
) {
    my ($name, $text, $pattern) = @$case;
    spew($conf, $text);
    my ($status, $output) = tool('nanomdm-schema', 'status', '--conf', $conf);
    is($status, 2, "a configuration: $name");
    like($output, $pattern, '… says what to do');
}

like((tool('nanomdm-schema', '--help'))[1], qr/^Usage: nanomdm-schema/, '--help');
like((tool('nanomdm-schema', '--version'))[1], qr/^nanomdm-schema v\d/, '--version');

# our own
fresh();
my ($status, $output) = schema('status');
is($status, 1, 'an empty database: status');
like($output, qr/tables that do not exist: devices, .*view_queue\n.*mdm_dead_tokens/, '… names the tables');
($status, $output) = schema('upgrade');
is($status, 0, '… upgrade makes them') or diag($output);
is_complete('… all of them');
handle()->do('DROP TABLE mdm_dead_tokens');
handle()->do('DROP INDEX users_device_id') if $driver ne 'mysql';
($status, $output) = schema('status');
is($status, 1, 'an older one: status');
like($output, qr/mdm_dead_tokens/, '… names the table');
like($output, qr/users: an index on \(device_id\)/, '… and the index') if $driver ne 'mysql';
is((schema('upgrade'))[0], 0, '… upgrade');
is_complete('… makes them');
spew($conf, "NanoMDMDatabase $driver \"$params\"\nNanoMDMTablePrefix \"\"\n");
is((tool('nanomdm-schema', 'status', '--conf', $conf))[0], 0, 'the database named by a configuration');
is(join(' ', tool('nanomdm-schema', 'upgrade', '--dry-run', '--conf', $conf)), '0 ',
    '… of which nothing is to be done');
for my $end ("\n", "\r\n") {
    spew($conf, join $end, "NanoMDMDatabase $driver \\", "  \"$params\"", 'NanoMDMTablePrefix \\', '""',
        '# a comment that goes on \\', 'NanoMDMDatabase sqlite3 /nowhere/x.db', '');
    is(join(' ', tool('nanomdm-schema', 'status', '--conf', $conf)), "0 Nothing is missing.\n",
        'lines that go on in the next one');
}

# the schema that the module makes
is((tool('nanomdm-schema', 'status', '--database', var('nanomdm_database') =~ s/"//gr))[0], 0,
    'the schema that NanoMDMSchema create makes is complete');

unless ($is_server) {
    done_testing;
    exit;
}

# A server that takes connections and says nothing. Looked at again behind all the others.
my $silent = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 5) or die $!;
my $silent_since = time;
my %waits;
for my $command (qw(status upgrade)) {
    my $port = $silent->sockport;
    my $where = $driver eq 'pgsql' ? "host=127.0.0.1 port=$port dbname=x user=x"
        : "host=127.0.0.1,port=$port,dbname=x,user=x";
    $waits{$command} = fork() // die "fork: $!";
    next if $waits{$command};
    open STDERR, '>', var('scratch') . "/schema-silent-$command" or POSIX::_exit(1);
    open STDOUT, '>&', \*STDERR or POSIX::_exit(1);
    { no warnings; exec var('bindir') . '/nanomdm-schema', $command, '--database', "$driver $where" }
    POSIX::_exit(127);
}

# NanoMDM's
for my $given ('', 'nano_') {
    my $name = $given ? 'with a prefix' : 'without a prefix';
    my $dbh = nanomdm($given);
    my $before = rows();
    my $keys = foreign_keys();
    cmp_ok(unsettled(), '>', 0, "a NanoMDM database $name has finished commands that count as waiting");
    ($status, $output) = schema('status');
    is($status, 1, '… status');
    like($output, qr/enrollment_queue: finished commands that still count as waiting/, '… says so');
    like($output, qr/${given}mdm_dead_tokens/, '… a table of our own');
    like($output, qr/command_results: an index on \(updated_at\)/, '… the index of the history');
    if ($driver eq 'pgsql') {
        like($output, qr/enrollment_queue: an index on \(id, active, priority DESC, created_at\)/, '… indexes');
        like($output, qr/cert_auth_associations: an index on \(sha256\)/, '… all of them');
        unlike($output, qr/serial_number/, '… but none that is there under another name');
    } else {
        like($output, qr/devices: .*ids that compare byte by byte/, '… ids');
        unlike($output, qr/an index on \((?!updated_at)/, '… but not indexes that are there under other names');
    }
    is_deeply(rows(), $before, '… changes nothing');
    ($status, $output) = schema('upgrade');
    is($status, 0, 'upgrade') or diag($output);
    like($output, qr/${given}mdm_dead_tokens.*\nNothing is missing\.\n\z/s, '… says each step');
    is_deeply(rows(), $before, '… all data are as they were');
    is(unsettled(), 0, '… but that finished commands do not count as waiting');
    is(foreign_keys(), $keys, '… and the foreign keys, by their names');
    is_complete('… nothing is missing any more');
    is(join(' ', schema('upgrade')), "0 Nothing is missing.\n", 'upgrade again');
    # constraints still hold
    for my $sql (
        "INSERT INTO {p}enrollment_queue (id, command_uuid) VALUES ('NOBODY', 'done')",
        "INSERT INTO {p}users (id, device_id) VALUES ('X', 'NOBODY')",
        "INSERT INTO {p}devices (id, authenticate, authenticate_at) VALUES ('X', '', CURRENT_TIMESTAMP)",
        "INSERT INTO {p}commands (command_uuid, request_type, command) VALUES ('X', 'X', 'no plist')",
    ) {
        ok(!eval { $dbh->do($sql =~ s/\{p\}/$prefix/r) }, "refused: $sql");
    }

    # by hand
    $dbh = nanomdm($given);
    ($status, my $sql) = schema('upgrade', '--dry-run');
    is($status, 0, '--dry-run');
    is_deeply([grep { !/;$/ } split /\n/, $sql], [], '… has a statement per line');
    is((schema('status'))[0], 1, '… and does nothing');
    $dbh->do($_ =~ s/;$//r) for split /\n/, $sql;
    is_complete('… its statements, run by hand, do');

    # two at once
    $dbh = nanomdm($given);
    $before = rows();
    my @said = at_once((sub { join ' ', schema('upgrade') }) x 3);
    is(join(' ', map { substr $_, 0, 2 } @said), '0  0  0 ', 'three at once') or diag(@said);
    is(scalar(grep { /mdm_dead_tokens/ } @said), 1, '… one has done it') or diag(@said);
    is_deeply(rows(), $before, '… and all data are as they were');
    is_complete('… complete');
}

if ($driver eq 'mysql') {
    # ids in other letters than those that they refer to: which count as the same until now
    my $dbh = nanomdm('');
    $dbh->do("INSERT INTO enrollment_queue (id, command_uuid) VALUES ('byod-1', 'DONE')");
    $dbh->do("UPDATE cert_auth_associations SET id = 'ipad-1' WHERE id = 'IPAD-1'");
    is((schema('upgrade'))[0], 0, 'ids in other letters: upgrade');
    is_complete('… complete');
    is_deeply($dbh->selectcol_arrayref("SELECT command_uuid FROM enrollment_queue WHERE id = 'BYOD-1'"
        . ' ORDER BY command_uuid'), ['done', 'third'], '… they are spelled alike');
    is($dbh->selectrow_array("SELECT count(*) FROM cert_auth_associations WHERE id = 'IPAD-1'"), 1,
        '… also in associations');

    # first in, first out within a second
    my @order = map { sprintf '%02d', $_ } reverse 1 .. 30;
    for (@order) {
        $dbh->do("INSERT INTO commands (command_uuid, request_type, command) VALUES ('o-$_', 'X', '<?xml')");
        $dbh->do("INSERT INTO enrollment_queue (id, command_uuid) VALUES ('GONE-1', 'o-$_')");
    }
    is_deeply($dbh->selectcol_arrayref("SELECT command_uuid FROM view_queue WHERE id = 'GONE-1'"
        . ' ORDER BY priority DESC, created_at'), [map { "o-$_" } @order], 'the queue is in order within a second');
    $dbh->do("UPDATE devices SET authenticate = CONCAT('<?xml', REPEAT('x', 100000)) WHERE id = 'MAC-1'");
    is($dbh->selectrow_array("SELECT LENGTH(authenticate) FROM devices WHERE id = 'MAC-1'"), 100005,
        'a message of 100,000 bytes fits');
}

if ($driver eq 'mysql') {    # tables of others that refer to these
    my $dbh = nanomdm('nano_');
    $dbh->do('CREATE TABLE others (id INTEGER PRIMARY KEY, uuid VARCHAR(127),'
        . ' FOREIGN KEY (uuid) REFERENCES nano_commands (command_uuid))');
    my $keys = foreign_keys();
    ($status, $output) = schema('upgrade');
    is($status, 0, "somebody else's key to one of the tables: upgrade") or diag($output);
    is(foreign_keys(), $keys, '… leaves all keys');
    unlike($output, qr/\nenrollments: ids/, '… and the ids');
    is_deeply($dbh->selectrow_arrayref('SELECT MAX(data_type), MAX(datetime_precision) FROM information_schema.columns'
        . " WHERE table_schema = DATABASE() AND table_name = 'nano_enrollment_queue' AND column_name = 'created_at'"),
        ['timestamp', 6], '… but does the rest');
    is(join(' ', schema('upgrade', '--dry-run')), '0 ', '… and is content');
    is_complete('… as status says');
}

# killed after some of its statements: in any place
{
    my $dbh = nanomdm('');
    my (undef, $sql) = schema('upgrade', '--dry-run');
    my @statements = map { s/;$//r } split /\n/, $sql;
    my $before = rows();
    my $keys = foreign_keys();
    for my $n ($driver eq 'mysql' ? 1 .. $#statements : ()) {    # PostgreSQL's are one transaction
        $dbh = nanomdm('');
        $dbh->do($_) for @statements[ 0 .. $n - 1 ];
        $dbh->disconnect;
        $handle = undef;
        is((schema('status'))[0], 1, "broken off after $n of " . @statements . ' statements: status sees it');
        my ($status, $output) = schema('upgrade');
        is($status, 0, '… upgrade') or diag($output);
        is_complete('… completes it');
        is(foreign_keys(), $keys, '… with all keys');
        is_deeply([map { scalar @{ rows()->{$_} } } @tables], [map { scalar @{ $before->{$_} } } @tables],
            '… and all rows');
    }
}

# killed by a signal in the middle of a step; with tables that take a while
for my $step ($driver eq 'mysql' ? ('devices', 'users', 'commands', 'enrollment_queue', 'cert_auth')
    : ('tables', 'command_results', 'enrollment_queue', 'cert_auth')) {
    my $dbh = nanomdm('');
    for (1 .. 6) {
        $dbh->do('INSERT INTO commands (command_uuid, request_type, command)'
            . " SELECT concat(command_uuid, '-$_'), request_type, command FROM commands");
    }
    $dbh->do("INSERT INTO enrollment_queue (id, command_uuid) SELECT 'MAC-1:JANE', command_uuid"
        . " FROM commands WHERE command_uuid <> 'third'");
    my $before = rows();
    my $keys = foreign_keys();
    my $pid = open(my $out, '-|', var('bindir') . '/nanomdm-schema', 'upgrade', database()) or die;
    while (my $line = <$out>) {
        last if $line =~ /^$step/;
    }
    kill 'KILL', $pid;
    close $out;
    is($? & 127, 9, "killed while it works on $step");
    ($status, $output) = schema('upgrade');
    is($status, 0, '… upgrade') or diag($output);
    is_complete('… completes it');
    is_deeply(rows(), $before, '… all data are as they were');
    is(foreign_keys(), $keys, '… and all keys');
}

# users with few rights
{
    my $dbh = nanomdm('');
    my $owner = $params;
    (my $role, $params) = NanoMDM::Database::role($driver, $owner);
    is((schema('status'))[0], 1, 'a user with the rights of httpd: status');
    ($status, $output) = schema('upgrade');
    is($status, 2, '… cannot upgrade');
    like($output, qr/denied|must be owner/i, '… and is told why');
    if ($driver eq 'mysql') {
        my ($name) = $params =~ /dbname=(\w+)/;
        $dbh->do("GRANT CREATE, ALTER, INDEX, DROP, REFERENCES, LOCK TABLES ON $name.*"
            . " TO $role\@'127.0.0.1'");
        is((schema('upgrade'))[0], 0, '… with the rights that the documents name it can');
    } else {
        is((tool('nanomdm-schema', 'upgrade', '--database', "$driver $owner"))[0], 0,
            '… the owner of the tables can');
        $dbh->do("GRANT SELECT, INSERT, UPDATE, DELETE ON mdm_dead_tokens TO $role");
    }
    is_complete('… and the user with few rights finds it complete');
    NanoMDM::Database::drop_role($driver, $owner, $role);
}

# the server that says nothing
{
    my $ended = eventually { waitpid($waits{status}, POSIX::WNOHANG()) } 75 - (time - $silent_since);
    is($ended && $? >> 8, 2, 'a silent server: status gives up after a minute');
    like(slurp(var('scratch') . '/schema-silent-status'), qr/cannot connect/, '… and says why');
    is(waitpid($waits{upgrade}, POSIX::WNOHANG()), 0, '… upgrade waits, as a change may take hours');
    for my $pid ($waits{upgrade}, $ended ? () : $waits{status}) {
        kill 'KILL', $pid;
        waitpid $pid, 0;
    }
}

done_testing;
