# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A second, private httpd for what the shared one cannot show: how a start ends, what a reload or a
# stop does, configurations that would harm other suites. It has its own directory, ports on the
# loopback and SQLite file, and the modules of the shared one. Where the run's database is a server,
# that is its database too, unless its configuration names another.
#
#   my $httpd = NanoMDM::Httpd->new(config => "$text");
#   server($httpd);         # of NanoMDM::Test: requests, log and database are this one's now
#   ok($httpd->start);      # else $httpd->{exit} and $httpd->{output} say why
#   $httpd->stop;           # also done at the end of the suite
#
# In the configuration stand for themselves: @port@ (already listened on, as are the other ports
# asked for), @NAME_port@, @dir@ (of this httpd, where nanomdm.db is), @database@ (what follows
# NanoMDMDatabase), @api@ (what serves the API below /v1/), @pki@, @scratch@, @modules@.

package NanoMDM::Httpd;

use strict;
use warnings FATAL => 'all';

use IO::Socket::INET ();
use Time::HiRes qw(sleep time);

use NanoMDM::PKI   ();
use NanoMDM::Ports ();

my $count = 0;
my @started;

# options
#   config    its text; base => 0 leaves out what most need (below: a database, a CA, an API key)
#   ports     names of more ports
#   modules   more modules to load; without: some of the shared ones not to load
#   vars      of the suite: the function var() of NanoMDM::Test
sub new {
    my ($class, %o) = @_;
    my $var  = \&NanoMDM::Test::var;
    my $self = bless {
        base => 1, ports => [], modules => [], without => [], %o,
        httpd => $var->('httpd'),
        dir   => $var->('scratch') . "/httpd-$$-" . ++$count,
    }, $class;
    mkdir $self->{dir} or die "$self->{dir}: $!";
    $self->{database} = "$self->{dir}/nanomdm.db";
    $self->{dsn} = $var->('nanomdm_dsn') unless $var->('nanomdm_driver') eq 'sqlite3';
    return $self;
}

sub log_file { my ($self) = @_; return "$self->{dir}/error_log" }
sub access_log { my ($self) = @_; return NanoMDM::PKI::slurp("$self->{dir}/access_log") }

# Its error log so far.
sub log {
    my ($self) = @_;
    return -e $self->log_file ? NanoMDM::PKI::slurp($self->log_file) : '';
}

# The number of the port with this name, '' for the first.
sub port {
    my ($self, $name) = @_;
    return $self->{port}{ $name // '' } // die "this httpd has no port named $name";
}

my $base = <<'END_BASE';
NanoMDMDatabase          @database@
NanoMDMSchema            create
NanoMDMCACertificateFile @pki@/ca.pem
NanoMDMAPIKey            file:@scratch@/api.key
NanoMDMLastSeenInterval  200ms
END_BASE

my $api = <<'END_API';
<Location "/v1/">
    SetHandler nanomdm-api
    AuthType Basic
    AuthName "nanomdm"
    AuthBasicProvider nanomdm
    Require valid-user
</Location>
END_API

my $frame = <<'END_FRAME';
ServerRoot "@dir@"
ServerName 127.0.0.1
DefaultRuntimeDir "@dir@"
PidFile "@dir@/httpd.pid"
Mutex "file:@dir@"
ErrorLog "@dir@/error_log"
LogLevel info nanomdm:debug
LogFormat "%r %>s id=%{UNIQUE_ID}e enrollment=%{NANOMDM_ENROLLMENT_ID}e" suite
CustomLog "@dir@/access_log" suite
TypesConfig /dev/null
DocumentRoot "@dir@"
LimitRequestLine 1048576
LimitRequestFieldSize 16380
GracefulShutdownTimeout 5
Timeout 10
KeepAlive Off
<IfModule mpm_prefork_module>
    StartServers 3
    MinSpareServers 1
    MaxSpareServers 4
    MaxRequestWorkers 6
</IfModule>
<IfModule !mpm_prefork_module>
    StartServers 1
    ThreadsPerChild 8
    MinSpareThreads 1
    MaxSpareThreads 16
    MaxRequestWorkers 16
</IfModule>
END_FRAME

# Write the configuration; config replaces the text. For a reload, ports stay.
sub configure {
    my ($self, $config) = @_;
    my $scratch = NanoMDM::Test::var('scratch');
    $self->{config} = $config if defined $config;
    $self->{port} ||= { map { ($_ => NanoMDM::Ports::free()) } '', @{ $self->{ports} } };
    my $without = join '|', @{ $self->{without} };
    my $modules = join '', grep { !length $without || !/LoadModule (?:$without)_module / }
        split /^/, NanoMDM::PKI::slurp("$scratch/modules.conf");
    my ($libexec) = $modules =~ m{^LoadModule mpm_\w+ (.*)/}m;
    $modules .= "LoadModule ${_}_module $libexec/mod_$_.so\n" for @{ $self->{modules} };
    my $text = join "\n", $modules, $frame,
        (map { "Listen 127.0.0.1:$_" } sort values %{ $self->{port} }),
        ($self->{base} ? $base : ()), $self->{config} // '';
    my %value = (
        database => $self->{dsn}
            ? NanoMDM::Test::var('nanomdm_database') : "sqlite3 $self->{dir}/nanomdm.db",
        dir => $self->{dir}, pki => NanoMDM::Test::var('pki'), scratch => $scratch,
        modules => $libexec, api => $api,
        map { (length $_ ? "${_}_port" : 'port', $self->{port}{$_}) } keys %{ $self->{port} },
    );
    $text =~ s/\@(\w+)\@/$value{$1} \/\/ die "no such name in a configuration: $1"/ge;
    NanoMDM::PKI::spew("$self->{dir}/httpd.conf", "$text\n");
    return $self;
}

# Run httpd with these arguments: (exit status, what it said).
sub run {
    my ($self, @args) = @_;
    my $said = "$self->{dir}/said";
    my $pid  = fork() // die "fork: $!";
    if (!$pid) {    # a file, not a pipe: the daemon keeps it open
        open STDOUT, '>', $said or die;
        open STDERR, '>&', \*STDOUT or die;
        open STDIN, '<', '/dev/null' or die;
        exec $self->{httpd}, '-f', "$self->{dir}/httpd.conf", @args or die;
    }
    waitpid $pid, 0;
    @$self{qw(exit output)} = ($? >> 8, NanoMDM::PKI::slurp($said));
    return @$self{qw(exit output)};
}

# True once it answers. False if it did not start: exit and output say why.
sub start {
    my ($self) = @_;
    $self->configure;
    for (1 .. 3) {
        $self->run('-k', 'start');
        last unless $self->{output} =~ /Address already in use/;
        delete $self->{port};    # somebody else took it between our look and the start
        $self->configure;
    }
    return 0 if $self->{exit};
    push @started, $self;
    $self->{pid} = _until(10, sub {
        -s "$self->{dir}/httpd.pid" && NanoMDM::PKI::slurp("$self->{dir}/httpd.pid") =~ /(\d+)/
            ? $1 : undef;
    }) or return 0;
    return _until(10, sub { $self->answers }) ? 1 : 0;
}

sub answers {
    my ($self) = @_;
    return !!IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $self->port, Timeout => 1);
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

# The process ids of its children.
sub children {
    my ($self) = @_;
    my @children;
    for (glob '/proc/[0-9]*/stat') {
        open my $fh, '<', $_ or next;
        my $line = <$fh> // next;
        my ($pid, $state, $parent) = $line =~ /^(\d+) \(.*\) (\S) (\d+)/ or next;
        push @children, $pid if $parent == ($self->{pid} // -1) && $state ne 'Z';
    }
    return sort { $a <=> $b } @children;
}

sub is_alive {
    my ($pid) = @_;
    open my $fh, '<', "/proc/$pid/stat" or return 0;
    return (<$fh> // '') !~ /^\d+ \(.*\) Z/;
}

# Kill one of the children, which httpd does not take for a crash: its process id, or '' if there was
# none.
sub kill_child {
    my ($self) = @_;
    my @children = $self->children or return '';
    my $pid = $children[rand @children];
    return kill('KILL', $pid) ? $pid : '';
}

# Send a signal (TERM, USR1 for a graceful restart, WINCH for a graceful stop) and wait for the end
# of the children that there are: the seconds that took, or undef after 15.
sub signal {
    my ($self, $signal) = @_;
    my @old   = $self->children;
    my $since = time;
    return undef unless $self->{pid} && kill $signal, $self->{pid};
    return _until(15, sub { !grep { is_alive($_) } @old }) ? time - $since : undef;
}

# Two crashes are httpd's own. A child that is told to end before it has begun runs exit() inside of
# httpd's signal handler, before anything of the module ran in it. And a child of the event MPM that
# must end at once shuts down the sockets of its workers, while one of these may be freeing its own:
# apr_os_sock_get(), called by mod_mpm_event, reads freed memory. That is before the module's cleanup,
# which begins with "child stopping". What the child said last is shown.
sub _is_ours {
    my ($self, $crash, $while_stopping) = @_;
    my ($pid) = $crash =~ /child pid (\d+)/ or return 1;
    my @said = grep { /\[pid $pid:/ } split /^/, $self->log;
    NanoMDM::Test::diag($crash, @said);
    return 0 if $while_stopping && !grep { /child stopping/ } @said;
    return scalar grep { /child ready/ } @said;
}

# Stop it and wait. Fails a test if a child had crashed.
sub stop {
    my ($self, $signal) = @_;
    my $pid = $self->{pid} or return 1;
    my $log = length $self->log;
    kill $signal || 'TERM', $pid;
    my $gone = _until(20, sub { !is_alive($pid) });
    kill 'KILL', $pid unless $gone;
    delete $self->{pid};
    NanoMDM::Test::fail("httpd ended:\n" . $self->log) unless $gone;
    my $pattern = qr/exit signal|AH00052|assertion/i;
    my $judged = $self->{judged} // 0;    # so much of the log, at stops before this one
    my @crash = grep { /$pattern/ && $self->_is_ours($_) } split /^/, substr $self->log, $judged, $log - $judged;
    push @crash, grep { /$pattern/ && $self->_is_ours($_, 1) } split /^/, substr $self->log, $log;
    $self->{judged} = length $self->log;
    NanoMDM::Test::fail("no child crashed: @crash") if @crash;
    return $gone;
}

END {
    my $status = $?;
    for (@started) {
        kill 'TERM', $_->{pid} if $_->{pid};
    }
    $? = $status;
}

1;
