# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A database for a test run: a SQLite file, or a PostgreSQL or MariaDB server of the run's own, in
# a directory and on a loopback port of its own. It ends with the process that started it, however
# that ends.
#
#   my $database = NanoMDM::Database->new('pgsql', "$scratch/database");
#   $database->start;
#   $database->{params}     # what NanoMDMDatabase takes after the driver's name
#   $database->connect      # a DBI handle, with the rights of the module
#   $database->stop;        # or stop('KILL'); start() starts it again, with its data and port
#
#   my $params = NanoMDM::Database::another('pgsql', $params, 'nanomdm_new')    # an empty database
#   NanoMDM::Database::load($dbh, $file, p => 'nano_')    # the statements of a file, {p} replaced
#
# With $database->{log_statements} set before the start, statements() gives what it was asked since.
# With a third argument, the parameters of a server that runs already, start and stop do nothing.

package NanoMDM::Database;

use strict;
use warnings FATAL => 'all';

use POSIX ();
use Time::HiRes qw(sleep time);

use NanoMDM::Ports ();

my $user = 'nanomdm';
my %started;    # those that this process has started

sub new {
    my ($class, $driver, $dir, $params) = @_;
    $driver =~ /^(?:sqlite3|pgsql|mysql)$/ or die "no such database: $driver\n";
    my $self = bless { driver => $driver, dir => $dir, running => defined $params }, $class;
    $self->{password} = join '', map { sprintf '%04x', int rand 65536 } 1 .. 4;
    $self->{params}   = $params // ($driver eq 'sqlite3' ? "$dir/nanomdm.db" : undef);
    $self->{dsn}      = dsn($driver, $self->{params}) if defined $self->{params};
    return $self;
}

# Whether start() and stop() can do what they say.
sub is_own { my ($self) = @_; return !$self->{running} && $self->{driver} ne 'sqlite3' }

# The data source of DBI for a driver of apr_dbd and its parameters. Holds the user and password.
sub dsn {
    my ($driver, $params) = @_;
    return "dbi:SQLite:dbname=$params" if $driver eq 'sqlite3';
    my %value = $params =~ /(\w+)\s*=\s*([^\s,;|]*)/g;
    return 'dbi:Pg:' . join ';', map { "$_=$value{$_}" } sort keys %value if $driver eq 'pgsql';
    my %name = (host => 'host', port => 'port', dbname => 'database', user => 'user',
        pass => 'password', sock => 'mariadb_socket');
    return 'dbi:MariaDB:' . join ';', map { "$name{$_}=$value{$_}" }
        grep { $name{$_} } sort keys %value;
}

sub connect {
    my ($self) = @_;
    return connect_to($self->{dsn});
}

# What clients have sent since this was last called, in order: [how, statement], where how is
# "prepare", "execute" (a prepared one) or "query".
sub statements {
    my ($self) = @_;
    my $pgsql = $self->{driver} eq 'pgsql';
    open my $fh, '<', $self->{dir} . ($pgsql ? '/log' : '/statements') or return;
    seek $fh, $self->{read} // 0, 0;
    my @statements;
    while (<$fh>) {
        if (!$pgsql) {
            push @statements, [lc $1, $2] if /^(?:\d+\s+[\d:]+)?\s+\d+ (Query|Execute|Prepare)\t(.*)/;
        }
        elsif (/LOG:  duration: [\d.]+ ms  (parse|execute|statement)[^:]*: (?:(PREPARE) .*? AS )?(.*)/) {
            my ($how, $prepare, $sql) = ($1, $2, $3);
            push @statements, [$how eq 'execute' ? 'execute'
                : $how eq 'parse' || $prepare ? 'prepare' : 'query', $sql];
        }
    }
    $self->{read} = tell $fh;
    return @statements;
}

sub connect_to {
    my ($dsn) = @_;
    my %login = (user => '', password => '');    # which MariaDB's driver does not take from it
    $dsn =~ s/(?<=[:;])(user|password)=([^;]*);?/$login{$1} = $2; ''/ge;
    require DBI;
    return DBI->connect($dsn, @login{qw(user password)}, { RaiseError => 1, PrintError => 0 });
}

# Values as SQLite gives them: bytes, 0 and 1, times with a blank and without fractions. The drivers
# already make bytes of bytea, and numbers of booleans.
sub normalize {
    my ($value) = @_;
    return $value unless defined $value && !ref $value;
    utf8::encode($value) if utf8::is_utf8($value);
    $value =~ s/^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.\d+\z/$1/;
    return $value;
}

# Make an empty database on the same server; one that is there is dropped. Returns the parameters.
sub another {
    my ($driver, $params, $name) = @_;
    my $dbh = connect_to(dsn($driver, $params));
    $dbh->do("DROP DATABASE IF EXISTS $name");
    $dbh->do("CREATE DATABASE $name");
    return $params =~ s/\bdbname=\w+/dbname=$name/r;
}

# Make a user with the rights that the documents give to httpd's, on this database alone: its name
# and the parameters with it. drop_role() ends it.
sub role {
    my ($driver, $params) = @_;
    my $role = "nanomdm_role_$$";
    my $dbh  = connect_to(dsn($driver, $params));
    if ($driver eq 'pgsql') {
        $dbh->do("CREATE ROLE $role LOGIN PASSWORD 'secret'");
        $dbh->do("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO $role");
    } else {
        my ($name) = $params =~ /\bdbname=(\w+)/;
        $dbh->do("CREATE USER $role\@'127.0.0.1' IDENTIFIED BY 'secret'");
        $dbh->do("GRANT SELECT, INSERT, UPDATE, DELETE ON $name.* TO $role\@'127.0.0.1'");
    }
    return ($role, $params =~ s/\buser=\w+/user=$role/r =~ s/\b(pass(?:word)?)=\w+/$1=secret/r);
}

sub drop_role {
    my ($driver, $params, $role) = @_;
    my $dbh = connect_to(dsn($driver, $params));
    return $dbh->do("DROP USER $role\@'127.0.0.1'") if $driver ne 'pgsql';
    $dbh->do("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM $role");
    return $dbh->do("DROP ROLE $role");
}

sub load {
    my ($dbh, $file, %value) = @_;
    open my $fh, '<', $file or die "$file: $!";
    my $text = join '', grep { !/^--/ } <$fh>;
    $text =~ s/\{(\w+)\}/$value{$1} \/\/ die "no value for {$1}"/ge;
    $dbh->do($_) for grep { /\S/ } split /;\n/, $text;
    return;
}

# --- servers --------------------------------------------------------------------------------

sub start {
    my ($self) = @_;
    return $self unless $self->is_own;
    $> or die "a database server does not run as root\n";
    $self->_make unless -d $self->{dir};
    $self->_watch;
    for my $turn (1 .. 3) {
        $self->{port} ||= NanoMDM::Ports::free();
        $self->{params} = $self->_params;
        $self->{dsn}    = dsn($self->{driver}, $self->{params});
        $self->{pid}    = _spawn("$self->{dir}/log", $self->_command);
        return $self if $self->_wait_until_it_answers;
        last if $self->{made} || $self->_log !~ /in use/i;    # else somebody else took the port
        delete $self->{port};
    }
    die "the $self->{driver} server does not start:\n" . $self->_log;
}

# Stop the server, with a signal other than the one that makes it end its clients' connections and
# shut down. Returns once it is gone.
sub stop {
    my ($self, $signal) = @_;
    my $pid = $self->{pid} or return;
    kill $signal || ($self->{driver} eq 'pgsql' ? 'INT' : 'TERM'), $pid;
    _until(15, sub { !_is_alive($pid) }) or kill 'KILL', $pid;
    _until(5, sub { !_is_alive($pid) });
    delete $self->{pid};
    return;
}

# Have all of the server stand still, as on a machine that is frozen: its port accepts, but nothing
# answers. thaw() ends that.
sub freeze { my ($self) = @_; return kill 'STOP', $self->_processes }
sub thaw   { my ($self) = @_; return kill 'CONT', $self->_processes }

# The server first, which could otherwise start more.
sub _processes {
    my ($self) = @_;
    my @children;
    for my $file (glob '/proc/[0-9]*/stat') {
        open my $fh, '<', $file or next;
        my ($pid, $parent) = (<$fh> // '') =~ /^(\d+) \(.*\) \S (\d+)/ or next;
        push @children, $pid if $parent == $self->{pid};
    }
    return ($self->{pid}, @children);
}

sub _tool {
    my ($name) = @_;
    my @versions = sort { ($b =~ m{/(\d+)/bin$})[0] <=> ($a =~ m{/(\d+)/bin$})[0] }
        glob '/usr/lib/postgresql/[0-9]*/bin';
    for my $dir (split(/:/, $ENV{PATH} // ''), '/usr/sbin', @versions) {
        return "$dir/$name" if -x "$dir/$name" && !-d _;
    }
    die "$name not found: install postgresql or mariadb-server\n";
}

sub _run {
    my ($self, @command) = @_;
    my $pid = _spawn("$self->{dir}/log", @command);
    waitpid $pid, 0;
    die "$command[0] failed:\n" . $self->_log if $?;
    return;
}

sub _write {
    my ($name, $text) = @_;
    open my $fh, '>', $name or die "$name: $!";
    print {$fh} $text;
    close $fh or die "$name: $!";
    return;
}

# The directory with an empty server in it.
sub _make {
    my ($self) = @_;
    my $dir = $self->{dir};
    mkdir $dir, 0700 or die "$dir: $!";
    if ($self->{driver} eq 'pgsql') {
        _write("$dir/password", "$self->{password}\n");
        $self->_run(_tool('initdb'), '-D', "$dir/data", '-N', '-U', 'postgres', '-E', 'UTF8',
            '--locale=C', '--auth=scram-sha-256', "--pwfile=$dir/password", '--no-instructions');
        return;
    }
    # The only user is ours; the statements stand the repetition when the server starts again.
    _write("$dir/init.sql", <<"END_SQL");
CREATE DATABASE IF NOT EXISTS $user;
CREATE USER IF NOT EXISTS $user\@'127.0.0.1' IDENTIFIED BY '$self->{password}';
GRANT ALL ON `$user%`.* TO $user\@'127.0.0.1' WITH GRANT OPTION;
GRANT CREATE USER, SUPER ON *.* TO $user\@'127.0.0.1';
DELETE FROM mysql.global_priv WHERE User IN ('', 'root');
FLUSH PRIVILEGES;
END_SQL
    $self->_run(_tool('mariadb-install-db'), '--no-defaults', "--datadir=$dir/data",
        '--skip-test-db', '--auth-root-authentication-method=normal');
    return;
}

sub _params {
    my ($self) = @_;
    return "host=127.0.0.1 port=$self->{port} dbname=$user user=$user password=$self->{password}"
        . ' connect_timeout=3' if $self->{driver} eq 'pgsql';
    return "host=127.0.0.1,port=$self->{port},dbname=$user,user=$user,pass=$self->{password}";
}

# What a crash of the machine would lose is not needed; that of the server alone loses nothing.
sub _command {
    my ($self) = @_;
    my ($dir, $port) = @$self{qw(dir port)};
    return (_tool('postgres'), '-D', "$dir/data", '-p', $port, map { ('-c', $_) }
        'listen_addresses=127.0.0.1', 'unix_socket_directories=', 'fsync=off',
        'shared_buffers=16MB', 'max_connections=200', 'lc_messages=C', 'logging_collector=off',
        $self->{log_statements} ? 'log_min_duration_statement=0' : ())
        if $self->{driver} eq 'pgsql';
    return (_tool('mariadbd'), '--no-defaults', "--datadir=$dir/data", "--port=$port",
        '--bind-address=127.0.0.1', '--socket=mariadbd.sock', '--skip-name-resolve',
        "--pid-file=$dir/data/pid", "--init-file=$dir/init.sql", '--max-connections=200',
        '--innodb-flush-log-at-trx-commit=2', '--innodb-buffer-pool-size=32M',
        '--skip-log-bin',
        $self->{log_statements} ? ('--general-log', "--general-log-file=$dir/statements") : ());
}

# True once our user can connect; false if the server has ended.
sub _wait_until_it_answers {
    my ($self) = @_;
    my $end = time + 30;
    while (time < $end && _is_alive($self->{pid})) {
        if ($self->{driver} eq 'pgsql' && !$self->{made}) {
            my $dsn = $self->{dsn} =~ s/\b(dbname|user)=$user/$1=postgres/gr;
            my $dbh = eval { connect_to($dsn) };
            if ($dbh) {
                $dbh->do("CREATE ROLE $user LOGIN CREATEDB CREATEROLE PASSWORD '$self->{password}'");
                $dbh->do("CREATE DATABASE $user OWNER $user");
                $self->{made} = 1;
            }
        }
        return $self->{made} = 1 if eval { $self->connect };
        sleep 0.05;
    }
    $self->stop('KILL');
    return 0;
}

sub _log {
    my ($self) = @_;
    open my $fh, '<', "$self->{dir}/log" or return '';
    my @lines = <$fh>;
    return join '', @lines > 20 ? @lines[ -20 .. -1 ] : @lines;
}

# --- processes ------------------------------------------------------------------------------

# Start a command in a session of its own, so that no terminal's signals reach it.
sub _spawn {
    my ($log, @command) = @_;
    my $pid = fork() // die "fork: $!";
    return $pid if $pid;
    POSIX::setsid();
    open STDIN,  '<',  '/dev/null' or POSIX::_exit(1);
    open STDOUT, '>>', $log        or POSIX::_exit(1);
    open STDERR, '>&', \*STDOUT    or POSIX::_exit(1);
    { no warnings; exec { $command[0] } @command }
    POSIX::_exit(1);
}

# A process that sees the end of this one, and then ends the server.
sub _watch {
    my ($self) = @_;
    $started{$self} = $self;
    return if $self->{watcher};
    pipe my $out, my $in or die "pipe: $!";
    my $pid = fork() // die "fork: $!";
    if ($pid) {
        @$self{qw(watcher lifeline owner)} = ($pid, $in, $$);
        return;
    }
    POSIX::setsid();
    delete $_->{lifeline} for values %started;
    close $in;
    open STDIN,  '<', '/dev/null' or POSIX::_exit(1);
    open STDOUT, '>', '/dev/null' or POSIX::_exit(1);
    open STDERR, '>', '/dev/null' or POSIX::_exit(1);
    my $byte;
    1 while sysread $out, $byte, 1;
    my $file = "$self->{dir}/data/" . ($self->{driver} eq 'pgsql' ? 'postmaster.pid' : 'pid');
    if (open my $fh, '<', $file) {
        my ($server) = (<$fh> // '') =~ /^(\d+)/;
        # KILL would leave PostgreSQL's children to find out by themselves
        kill $self->{driver} eq 'pgsql' ? 'QUIT' : 'KILL', $server if $server;
        kill 'CONT', $server if $server;
        _until(5, sub { !_is_alive($server) }) || kill 'KILL', $server if $server;
    }
    POSIX::_exit(0);
}

sub _is_alive {
    my ($pid) = @_;
    return 0 if waitpid($pid, POSIX::WNOHANG()) == $pid;
    return 0 unless kill 0, $pid;
    open my $fh, '<', "/proc/$pid/stat" or return -d '/proc/self' ? 0 : 1;
    return (<$fh> // '') !~ /^\d+ \(.*\) [ZX]/;
}

sub _until {
    my ($seconds, $code) = @_;
    my $end = time + $seconds;
    while (1) {
        my $result = $code->();
        return $result if $result || time > $end;
        sleep 0.03;
    }
}

# The normal end: without this, the server would end just the same, but later than this process.
END {
    my $status = $?;
    for (grep { ($_->{owner} // 0) == $$ } values %started) {
        close delete $_->{lifeline};
        waitpid $_->{watcher}, 0;
    }
    $? = $status;
}

1;
