# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# What the suites share: requests over plain HTTP and TLS, device identities and their signatures,
# Apple's messages, the API, a look into the database and into the error log. Brings Test::More.
#
#   use NanoMDM::Test;
#   my $device = device();                      # a new identity and UDID, nothing sent yet
#   enroll($device);                            # Authenticate and TokenUpdate, both 200
#   my $r = report($device, Status => 'Idle');  # $r->{status}, $r->{headers}{name}, $r->{body}
#   done_testing;

package NanoMDM::Test;

use strict;
use warnings FATAL => 'all';

use Exporter qw(import);
use IO::Socket::INET ();
use IO::Socket::SSL  ();
use MIME::Base64 qw(encode_base64);
use Test::More;
use Time::HiRes qw(sleep time);

use Apache::TestConfig ();
use NanoMDM::Database  ();
use NanoMDM::Httpd     ();
use NanoMDM::PKI       ();

our @EXPORT = (
    @Test::More::EXPORT,
    qw(var port pki slurp spew request is_status sign device enroll checkin report send_message
       identity_headers plist data checkin_plist report_plist command_plist uuid api db db_value
       log_mark log_since log_like log_unlike configtest json_ok eventually server at_once tool)
);

my $vars;

# A value of the server's configuration: port, tls_port, scratch, mpm, apikey …
sub var {
    my ($name) = @_;
    $vars ||= Apache::TestConfig->thaw->{vars};
    die "no such variable: $name" unless exists $vars->{$name};
    return $vars->{$name};
}

my ($server, $dbh);

# From here on requests, the log and the database are those of a NanoMDM::Httpd; without one, of
# the server that all suites share.
sub server {
    my ($httpd) = @_;
    ($server, $dbh) = ($httpd, undef);
    return $httpd;
}

# The port of a virtual host ("tls"), of the main server ("" or undef), or a number.
sub port {
    my ($host) = @_;
    return $host if $host && $host =~ /^\d+$/;
    return $server->port($host) if $server;
    return var($host ? "${host}_port" : 'port');
}

my $pki;
sub pki { return $pki ||= NanoMDM::PKI->new(var('pki')) }

*slurp = \&NanoMDM::PKI::slurp;
*spew  = \&NanoMDM::PKI::spew;

# --- requests -------------------------------------------------------------------------------

# Send one request and read the whole reply.
#
#   request(PUT => '/mdm', body => '…', headers => { 'Content-Type' => '…' }, host => 'tls',
#           identity => 'rsa')
#
# headers    a hash, or an array of pairs where the order or a repetition matters
# host       a virtual host of t/conf/extra.conf.in, or a port; those that begin with tls speak TLS
# identity   the TLS client certificate
# raw        bytes to send instead of a request that is made from the rest
# end        1: end the stream once all is sent
# length     Content-Length to claim, whatever the body is; undef for none
# timeout    seconds; 30
#
# Returns { status, reason, headers (lower-case names; repeated ones joined with ", "), body }, or
# { status => 0, error } if there was no reply.
sub request {
    my ($method, $path, %o) = @_;
    my $socket = _connect(%o) or return { status => 0, error => $@ || $!, headers => {}, body => '' };
    my $body   = $o{body} // '';
    my @pairs  = ref $o{headers} eq 'ARRAY' ? @{ $o{headers} } : %{ $o{headers} || {} };
    my $head   = "$method $path HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n";
    my $length = exists $o{length} ? $o{length} : length $body;
    $head .= "Content-Length: $length\r\n"
        if defined $length && ($length || $method ne 'GET');
    while (@pairs) {
        my ($name, $value) = splice @pairs, 0, 2;
        $head .= "$name: $value\r\n";
    }
    my $text = $o{raw} // "$head\r\n$body";
    local $SIG{PIPE} = 'IGNORE';
    my $answer = '';
    my $ok = eval {
        local $SIG{ALRM} = sub { die "timeout\n" };
        alarm($o{timeout} || 30);
        # An early reply, say 413, may come before everything is sent: a failed write is no end.
        for (my $at = 0 ; $at < length $text ;) {
            my $n = syswrite $socket, $text, 65536, $at;
            last unless $n;
            $at += $n;
        }
        shutdown $socket, 1 if $o{end};
        while (1) {
            my $n = sysread $socket, $answer, 65536, length $answer;
            last unless $n;
        }
        alarm 0;
        1;
    };
    my $error = $@;
    alarm 0;
    close $socket;
    return _parse($answer, $ok ? '' : $error);
}

sub _connect {
    my (%o) = @_;
    my $host = $o{host} || '';
    my @peer = (PeerAddr => '127.0.0.1', PeerPort => port($host));
    return IO::Socket::INET->new(@peer, Timeout => 10) unless $host =~ /^tls/ || $o{tls};
    my %certificate = $o{identity}
        ? (SSL_cert_file => pki->cert($o{identity}), SSL_key_file => pki->key($o{identity}))
        : ();
    my $socket = IO::Socket::SSL->new(
        @peer, Timeout => 10, %certificate,
        SSL_ca_file         => pki->cert('other_ca'),
        SSL_verifycn_name   => 'localhost',
        SSL_verifycn_scheme => 'http',
        SSL_verify_mode     => IO::Socket::SSL::SSL_VERIFY_PEER(),
        SSL_version         => $o{tls_version} || 'SSLv23:!SSLv3:!SSLv2',
    );
    $@ = IO::Socket::SSL::errstr() unless $socket;
    return $socket;
}

sub _parse {
    my ($text, $error) = @_;
    my ($head, $body) = split /\r\n\r\n/, $text, 2;
    my ($line, @lines) = split /\r\n/, $head // '';
    my ($status, $reason) = ($line // '') =~ m{^HTTP/1\.\d (\d{3}) ?(.*)};
    return { status => 0, error => $error || 'no reply', headers => {}, body => '' }
        unless $status;
    my %headers;
    for (@lines) {
        my ($name, $value) = /^([^:]+):\s*(.*?)\s*$/ or next;
        $name = lc $name;
        $headers{$name} = exists $headers{$name} ? "$headers{$name}, $value" : $value;
    }
    $body //= '';
    if (lc($headers{'transfer-encoding'} // '') eq 'chunked') {
        my ($rest, $whole) = ($body, '');
        while ($rest =~ s/^([0-9a-fA-F]+)[^\r\n]*\r\n//) {
            my $n = hex $1 or last;
            $whole .= substr $rest, 0, $n;
            $rest = substr $rest, $n + 2 < length $rest ? $n + 2 : length $rest;
        }
        $body = $whole;
    }
    return { status => $status, reason => $reason, headers => \%headers, body => $body,
        error => $error };
}

# One test: the reply has this status; otherwise its text and the end of the error log are shown.
sub is_status {
    my ($r, $status, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $ok = is($r->{status}, $status, $name);
    diag(substr($r->{body} || $r->{error} || '', 0, 500), "\n", _log_tail()) unless $ok;
    return $ok;
}

sub _log_tail {
    my @lines = split /^/, slurp(_error_log());
    return join '', @lines > 8 ? @lines[ -8 .. -1 ] : @lines;
}

# Call the code until it returns true, for at most so many seconds (5); returns what it returned.
sub eventually (&;$) {
    my ($code, $seconds) = @_;
    my $end = time + ($seconds || 5);
    while (1) {
        my $result = $code->();
        return $result if $result || time > $end;
        sleep 0.05;
    }
}

# Run each of these at the same time, in a process of its own that makes no tests; returns the texts
# that they returned, in order.
sub at_once {
    my (@code) = @_;
    require POSIX;
    my @running;
    for my $code (@code) {
        pipe my $out, my $in or die "pipe: $!";
        my $pid = fork() // die "fork: $!";
        if (!$pid) {
            srand;
            my $text = eval { $code->() } // "died: $@";
            syswrite $in, $text;
            POSIX::_exit(0);
        }
        push @running, [$pid, $out];
    }
    return map {
        my ($pid, $out) = @$_;
        my $text = '';
        1 while sysread $out, $text, 65536, length $text;
        waitpid $pid, 0;
        $text;
    } @running;
}

# --- property lists -------------------------------------------------------------------------

# Bytes, for plist(): a <data> element.
sub data { my ($bytes) = @_; return bless \$bytes, 'NanoMDM::Test::Data' }

sub _element {
    my ($value, $indent) = @_;
    my $tab = "\t" x $indent;
    my $kind = ref $value;
    if ($kind eq 'HASH') {
        return "$tab<dict>\n" . join('', map {
            "$tab\t<key>" . _escape($_) . "</key>\n" . _element($value->{$_}, $indent + 1)
        } sort keys %$value) . "$tab</dict>\n";
    }
    if ($kind eq 'ARRAY') {
        return "$tab<array>\n" . join('', map { _element($_, $indent + 1) } @$value) . "$tab</array>\n";
    }
    if ($kind eq 'NanoMDM::Test::Data') {
        return "$tab<data>\n$tab" . encode_base64($$value, '') . "\n$tab</data>\n";
    }
    if ($kind eq 'SCALAR') {    # \1 and \0 are booleans
        return $tab . ($$value ? '<true/>' : '<false/>') . "\n";
    }
    return "$tab<string>" . _escape($value) . "</string>\n";
}

sub _escape {
    my ($text) = @_;
    $text =~ s/&/&amp;/g;
    $text =~ s/</&lt;/g;
    $text =~ s/>/&gt;/g;
    return $text;
}

# A property list, as Apple writes it: strings, data(), \1 and \0, hashes and arrays.
sub plist {
    my ($value) = @_;
    return qq(<?xml version="1.0" encoding="UTF-8"?>\n)
        . qq(<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" )
        . qq("http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n)
        . qq(<plist version="1.0">\n) . _element($value, 0) . "</plist>\n";
}

my $counter = 0;

# A new UUID; no two runs, and no two suites of a run, make the same one.
sub uuid {
    return sprintf '%08X-%04X-%04X-%04X-%012X', time, $$ & 0xffff, $counter >> 16,
        $counter++ & 0xffff, int(rand(2**48));
}

# A check-in message of a device (or user channel); members replace, undef removes.
sub checkin_plist {
    my ($device, $type, %members) = @_;
    my %message = (MessageType => $type, %{ $device->{ids} });
    if ($type eq 'Authenticate') {
        %message = (%message, Topic => $device->{topic}, SerialNumber => $device->{serial},
            Model => 'MacBookPro18,3', OSVersion => '14.5', BuildVersion => '23F79');
    }
    elsif ($type eq 'TokenUpdate') {
        %message = (%message, Topic => $device->{topic}, PushMagic => $device->{magic},
            Token => data($device->{token}));
        $message{UserShortName} = $device->{short_name} if $device->{short_name};
        $message{UserLongName}  = $device->{long_name}  if $device->{long_name};
    }
    %message = (%message, %members);
    delete $message{$_} for grep { !defined $message{$_} } keys %message;
    return plist(\%message);
}

# A command report; report_plist($device, Status => 'Acknowledged', CommandUUID => $uuid).
sub report_plist {
    my ($device, %members) = @_;
    my %message = (Status => 'Idle', %{ $device->{ids} }, %members);
    delete $message{$_} for grep { !defined $message{$_} } keys %message;
    return plist(\%message);
}

# A command: (text, uuid). command_plist('DeviceInformation', Queries => ['UDID'])
sub command_plist {
    my ($type, %members) = @_;
    my $uuid = delete $members{CommandUUID} // uuid();
    return (plist({ CommandUUID => $uuid, Command => { RequestType => $type, %members } }), $uuid);
}

# --- devices --------------------------------------------------------------------------------

# A device with a UDID, topic, push magic and token, and an identity of its own unless one is
# named. Nothing is sent. Options replace members:
#   identity    a name of the PKI; source  signature (default), ssl, header; host  see request()
#   user => {UserID…, short_name => …}: a user channel of the device given as parent
sub device {
    my (%o) = @_;
    my $udid = $o{udid} || uuid();
    my $device = {
        ids    => { UDID => $udid },
        id     => $udid,
        topic  => 'com.apple.mgmt.External.' . lc uuid(),
        magic  => uuid(),
        token  => pack('H*', join '', map { sprintf '%02x', int rand 256 } 1 .. 32),
        serial => 'C02' . substr(uuid(), -9),
        source => 'signature',
        %o,
    };
    $device->{identity} ||= pki->issue('device-' . uuid(), issuer => 'ca');
    if (my $parent = $o{parent}) {
        my $user = $o{user_id} || uuid();
        %$device = (%$device, ids => { %{ $parent->{ids} }, UserID => $user },
            id => "$parent->{id}:$user", identity => $parent->{identity}, topic => $parent->{topic},
            source => $parent->{source}, host => $parent->{host},
            short_name => $o{short_name} || 'jane', long_name => $o{long_name} || 'Jane Doe');
    }
    return $device;
}

# The value of Mdm-Signature: sign($body, 'rsa', md => 'sha1', noattr => 1, indef => 1).
# md (sha256), noattr (no signed attributes), indef (BER of indefinite length), nocerts, and
# binary: the DER itself instead of one line of base64; extra: more arguments of openssl cms.
sub sign {
    my ($body, $identity, %o) = @_;
    my $der = NanoMDM::PKI::openssl($body, 'cms', '-sign', '-binary', '-outform', 'DER',
        '-signer', pki->cert($identity), '-inkey', pki->key($identity), '-md', $o{md} || 'sha256',
        ($o{noattr} ? '-noattr' : ()),
        ($o{nocerts} ? '-nocerts' : ()), @{ $o{extra} || [] });
    $der = _indefinite($der, 0) if $o{indef};
    return $o{binary} ? $der : encode_base64($der, '');
}

# The outer elements with indefinite lengths, as Apple's encoder makes them: ContentInfo, its
# content, SignedData, and in that the content info and the certificates. (openssl -stream cannot
# make this: it puts the content in.)
sub _indefinite {
    my ($der, $depth) = @_;
    my ($tag, $length, @rest) = unpack 'C C C*', $der;
    my $head = 2;
    if ($length & 0x80) {
        my $n = $length & 0x7f;
        $length = 0;
        $length = $length * 256 + $_ for @rest[ 0 .. $n - 1 ];
        $head += $n;
    }
    my $whole = substr $der, 0, $head + $length;
    my $after = substr $der, $head + $length;
    if ($tag == 0x30 || $tag == 0xa0) {
        my $inner = substr $whole, $head;
        # the certificates are a list of opaque elements
        $inner = _indefinite($inner, $depth + 1) if length $inner && $depth < 3;
        $whole = pack('C C', $tag, 0x80) . $inner . "\0\0";
    }
    return $whole . (length $after ? _indefinite($after, $depth) : '');
}

# The headers that tell who a device is, for its source of identity.
sub identity_headers {
    my ($device, $body) = @_;
    my $name = $device->{identity};
    return () if $device->{source} eq 'ssl';
    return ('X-Client-Cert', ':' . encode_base64(pki->der($name), '') . ':')
        if $device->{source} eq 'header';
    return ('Mdm-Signature', sign($body, $name, %{ $device->{sign} || {} }));
}

# Send a body as this device. Options are request()'s and path.
sub send_message {
    my ($device, $type, $body, %o) = @_;
    my %path = (signature => '/mdm', ssl => '/mdm-ssl', header => '/mdm-header');
    my $source = $device->{source};
    my $host = exists $o{host} ? $o{host} : $device->{host} // ($source eq 'ssl' ? 'tls' : '');
    return request(
        PUT => $o{path} // $device->{path} // $path{$source},
        %o,
        body    => $body,
        host    => $host,
        headers => [
            'Content-Type' => $type,
            identity_headers($device, $body), @{ $o{headers} || [] }
        ],
        ($host =~ /^tls/ ? (identity => $device->{identity}) : ()),
    );
}

# Send a check-in message: checkin($device, 'TokenUpdate', PushMagic => undef, -path => '/checkin').
# Names with a leading dash are send_message()'s options.
sub checkin {
    my ($device, $type, %members) = @_;
    my %o = map { (substr($_, 1) => delete $members{$_}) } grep { /^-/ } keys %members;
    return send_message($device, 'application/x-apple-aspen-mdm-checkin',
        checkin_plist($device, $type, %members), %o);
}

# Send a command report; otherwise as checkin().
sub report {
    my ($device, %members) = @_;
    my %o = map { (substr($_, 1) => delete $members{$_}) } grep { /^-/ } keys %members;
    return send_message($device, 'application/x-apple-aspen-mdm', report_plist($device, %members), %o);
}

# Authenticate and TokenUpdate: one test. Returns the device.
sub enroll {
    my ($device, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my @statuses = map { checkin($device, $_)->{status} }
        $device->{parent} ? 'TokenUpdate' : ('Authenticate', 'TokenUpdate');
    my $expected = $device->{parent} ? '200' : '200 200';
    is("@statuses", $expected, $name || 'enrolled') or diag(_log_tail());
    return $device;
}

# --- the API --------------------------------------------------------------------------------

# Call the API with its key: api(PUT => 'enqueue/ID?nopush=1', $body). Options are request()'s,
# and user, password, base ("/v1/"). The decoded JSON of the reply is in json, if it is JSON.
sub api {
    my ($method, $path, $body, %o) = @_;
    my $user     = delete $o{user}     // 'nanomdm';
    my $password = delete $o{password} // var('apikey');
    my $base     = delete $o{base}     // '/v1/';
    my @headers  = @{ delete $o{headers} || [] };
    push @headers, Authorization => 'Basic ' . encode_base64("$user:$password", '')
        if length $user;
    my $r = request($method, "$base$path", body => $body, %o, headers => \@headers);
    if (($r->{headers}{'content-type'} // '') =~ m{^application/json}) {
        require JSON::PP;
        $r->{json} = eval { JSON::PP->new->utf8->decode($r->{body}) };
    }
    return $r;
}

# One test: the reply is JSON, tab-indented, with a trailing newline, and equal to this.
sub json_ok {
    my ($r, $expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is_deeply($r->{json}, $expected, $name) || diag($r->{body});
}

# --- the database and the log ---------------------------------------------------------------

# The rows of a query, as hashes, with the values as SQLite gives them, whatever the database is. A
# connection that only reads: the server owns the database.
sub db {
    my ($sql, @values) = @_;
    _connect_to_database();
    my $statement = $dbh->prepare($sql);
    $statement->execute(@values);
    return [] unless $statement->{NUM_OF_FIELDS};
    my $rows = $statement->fetchall_arrayref({});
    for my $row (@$rows) {
        $_ = NanoMDM::Database::normalize($_) for values %$row;
    }
    return $rows;
}

# The first column of the first row.
sub db_value {
    my ($sql, @values) = @_;
    _connect_to_database();
    return NanoMDM::Database::normalize(($dbh->selectrow_array($sql, undef, @values))[0]);
}

sub _connect_to_database {
    return $dbh ||= NanoMDM::Database::connect_to(
        !$server ? var('nanomdm_dsn') : $server->{dsn} // "dbi:SQLite:dbname=$server->{database}");
}

sub _error_log { return $server ? $server->log_file : var('t_logs') . '/error_log' }

# Where the error log ends now; what was written after that.
sub log_mark { return -s _error_log() || 0 }

sub log_since {
    my ($mark) = @_;
    return substr slurp(_error_log()), $mark;
}

# One test: a line that matches was logged since the mark (waits up to 5 s).
sub log_like {
    my ($mark, $pattern, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $found = eventually { log_since($mark) =~ $pattern };
    ok($found, $name) or diag("no $pattern in:\n" . log_since($mark));
    return $found;
}

# One test: nothing that was logged since the mark matches.
sub log_unlike {
    my ($mark, $pattern, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return unlike(log_since($mark), $pattern, $name);
}

# httpd -t over a configuration text, with the server's modules: (exit code, what it said).
# Options: without => [names of modules to leave out], with => [names of more modules].
sub configtest {
    my ($text, %o) = @_;
    my $dir  = var('scratch');
    my $file = "$dir/configtest-$$.conf";
    my $modules = slurp("$dir/modules.conf");
    my ($libexec) = $modules =~ m{^LoadModule mpm_\w+ (.*)/}m;
    $modules =~ s/^LoadModule ${_}_module .*\n//m for @{ $o{without} || [] };
    $modules .= "LoadModule ${_}_module $libexec/mod_$_.so\n" for @{ $o{with} || [] };
    spew($file, "ServerRoot \"$dir\"\nPidFile \"$dir/configtest.pid\"\nMutex \"file:$dir\"\n"
        . "ErrorLog \"$dir/configtest.log\"\nServerName localhost\n$modules\n"
        . "Listen 127.0.0.1:1\n$text\n");
    my $output = qx('$vars->{httpd}' -t -f '$file' 2>&1);
    my $status = $? >> 8;
    unlink $file;
    return ($status, $output);
}

# Run a program of the build's with these arguments: (exit code, what it said on both outputs).
sub tool {
    my ($name, @args) = @_;
    # As for httpd: database drivers do not free all when they are unloaded.
    local $ENV{ASAN_OPTIONS} = join ':', 'detect_leaks=0', $ENV{ASAN_OPTIONS} || ();
    my $pid = open(my $out, '-|') // die "fork: $!";
    if (!$pid) {
        open STDERR, '>&', \*STDOUT or die $!;
        exec var('bindir') . "/$name", @args or do { print "$name: $!"; require POSIX; POSIX::_exit(127) };
    }
    my $output = do { local $/; <$out> };
    close $out;
    return ($? >> 8, $output // '');
}

# A suite that dies has failed, and says where.
$SIG{__DIE__} = sub { die @_ if $^S || !defined $^S; print "not ok - died: $_[0]\n"; die @_ };

1;
