# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# An HTTP(S) server that a suite has talked to: it writes down each request, and answers as it is
# told. A process of its own, which ends with the suite.
#
#   my $receiver = NanoMDM::Receiver->new;                 # on $receiver->port, as $receiver->url
#   my $receiver = NanoMDM::Receiver->new(tls => 'server', client_ca => 'ca');   # names of the PKI
#   my $proxy = NanoMDM::Receiver->new(tunnel => 'server');   # answers CONNECT with status 200, and is
#                                                          #   then itself who is asked, by TLS
#   $receiver->answer(status => 500);                      # from now on
#   my @requests = $receiver->requests;                    # so far: { method, path, headers, body,
#                                                          #   id: of the connection, at }
#   $receiver->down; $receiver->up;                        # on the same port
#
# Answers
#   status, headers (array of pairs), body
#   delay    seconds before the answer
#   match    only for requests whose body matches this; others get 200. A string, not a regex object
#   raw      these bytes instead of an answer, then the end of the connection
#   piece    in place of that end: these bytes again and again, until the other side ends it;
#   every    so many seconds lie between (0)
#   size     a body of so many bytes

package NanoMDM::Receiver;

use strict;
use warnings FATAL => 'all';

use Digest::SHA      qw(hmac_sha256);
use IO::Select       ();
use IO::Socket::INET ();
use IO::Socket::SSL  ();
use JSON::PP         ();
use MIME::Base64     qw(encode_base64 decode_base64);
use POSIX            ();
use Time::HiRes      qw(sleep time);

use NanoMDM::Ports ();

my $count = 0;
my @started;

sub new {
    my ($class, %o) = @_;
    my $self = bless { %o }, $class;
    my $base = NanoMDM::Test::var('scratch') . "/receiver-$$-" . ++$count;
    @$self{qw(record rules)} = ("$base.requests", "$base.rules");
    $self->answer(status => 200);
    NanoMDM::PKI::spew($self->{record}, '');
    $self->up;
    push @started, $self;
    return $self;
}

sub port { my ($self) = @_; return $self->{port} }
sub url {
    my ($self, $path) = @_;
    return ($self->{tls} ? 'https' : 'http') . "://127.0.0.1:$self->{port}" . ($path // '/hook');
}

sub answer {
    my ($self, %rule) = @_;
    NanoMDM::PKI::spew("$self->{rules}.new", JSON::PP->new->latin1->encode(\%rule));
    rename "$self->{rules}.new", $self->{rules} or die $!;
    return;
}

# What has come, in the order in which it was complete; from the nth on. In the record bodies stand
# beside the JSON, and below payloads are kept out of it: JSON::PP takes seconds for a few megabytes.
sub requests {
    my ($self, $from) = @_;
    my @lines = $self->_lines;
    return map {
        my ($head, $body) = split /\t/, $_, 2;
        +{ %{ JSON::PP->new->decode($head) }, body => decode_base64($body) };
    } @lines[ ($from // 0) .. $#lines ];
}

# The JSON of the bodies, with what raw_payload holds decoded as payload.
sub events {
    my ($self, $from) = @_;
    return map {
        my ($event, $payload) = _decode($_->{body});
        $event->{inner}{raw_payload} = $payload;
        $event->{payload} = decode_base64($payload);
        $event;
    } $self->requests($from);
}

# Likewise, but without payload: fast enough for tens of thousands.
sub heads {
    my ($self) = @_;
    return map { (_decode(decode_base64((split /\t/, $_, 2)[1])))[0] }
        $self->_lines;
}

# Of the record; one that is being written is none yet.
sub _lines { my ($self) = @_; return NanoMDM::PKI::slurp($self->{record}) =~ /^(.*)\n/mg }

# (event, what its raw_payload was)
sub _decode {
    my ($body) = @_;
    my $payload = $body =~ s/"raw_payload":"\K([^"]*)// ? $1 : '';
    my $event = JSON::PP->new->utf8->decode($body);
    $event->{inner} = $event->{checkin_event} || $event->{acknowledge_event};
    return ($event, $payload);
}

sub count { my ($self) = @_; return scalar(() = NanoMDM::PKI::slurp($self->{record}) =~ /\n/g) }

sub hmac { my ($key, $body) = @_; return encode_base64(hmac_sha256($body, $key), '') }

# --- the server -----------------------------------------------------------------------------

sub up {
    my ($self) = @_;
    $self->{port} ||= NanoMDM::Ports::free();
    my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $self->{port},
        Listen => 128, ReuseAddr => 1) or die "listen: $!";
    my $pid = fork() // die "fork: $!";
    if (!$pid) {
        $SIG{PIPE} = 'IGNORE';
        $SIG{TERM} = sub { POSIX::_exit(0) };    # between two operations: what it writes is whole
        delete $SIG{__DIE__};
        eval { $self->_serve($listen, getppid) };
        print STDERR "receiver: $@" if $@;
        POSIX::_exit(0);
    }
    @$self{qw(pid owner)} = ($pid, $$);
    return $self;
}

sub down {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    kill 'TERM', $pid;
    waitpid $pid, 0;
    return;
}

# Many connections, one request of each at a time.
sub _serve {
    my ($self, $listen, $parent) = @_;
    my $select = IO::Select->new($listen);
    my (%client, $id);
    my @later;    # [when, client]
    while (getppid == $parent) {
        my $wait = 0.5;
        for (@later) { my $left = $_->[0] - time; $wait = $left < 0 ? 0 : $left if $left < $wait }
        for my $fh ($select->can_read($wait)) {
            if ($fh == $listen) {
                my $socket = $listen->accept or next;
                $socket->timeout(5);
                $socket = $self->_tls($socket) or next if $self->{tls};
                $client{ fileno $socket } = { socket => $socket, id => ++$id, in => '' };
                $select->add($socket);
                next;
            }
            my $client = $client{ fileno $fh };
            my $n = sysread $fh, $client->{in}, 1 << 20, length $client->{in};
            $n = sysread $fh, $client->{in}, 1 << 20, length $client->{in}
                while $n && $fh->can('pending') && $fh->pending;
            if (!$n) {
                $select->remove($fh);
                delete $client{ fileno $fh };
                @later = grep { $_->[1] != $client } @later;
                close $fh;
                next;
            }
            push @later, $self->_take($client);
        }
        my $now = time;    # one moment for both, or one in between is in neither
        my @due = grep { $_->[0] <= $now } @later;
        @later = grep { $_->[0] > $now } @later;
        for (@due) {
            my ($when, $client, $rule) = @$_;
            if ($self->_reply($client, $rule)) {
                my $piece = $rule->{piece} // next;
                push @later, [time + ($rule->{every} || 0), $client, { %$rule, raw => $piece }];
                next;
            }
            $select->remove($client->{socket});
            delete $client{ fileno $client->{socket} };
            close $client->{socket};
        }
    }
}

sub _tls {
    my ($self, $socket) = @_;
    my $pki = NanoMDM::Test::pki();
    my $name = $self->{tls} || $self->{tunnel};
    my @client = $self->{client_ca}
        ? (SSL_verify_mode => IO::Socket::SSL::SSL_VERIFY_PEER()
            | IO::Socket::SSL::SSL_VERIFY_FAIL_IF_NO_PEER_CERT(),
            SSL_ca_file => $pki->cert($self->{client_ca}))
        : (SSL_verify_mode => 0);
    return IO::Socket::SSL->start_SSL($socket, SSL_server => 1, Timeout => 5,
        SSL_cert_file => $pki->cert($name), SSL_key_file => $pki->key($name), @client);
}

# Requests that are complete, each as [when to answer, client, how].
sub _take {
    my ($self, $client) = @_;
    my @answers;
    while ($client->{in} =~ /^(.*?)\r\n\r\n/s) {
        my ($head, $at) = ($1, $+[0]);
        my ($line, @lines) = split /\r\n/, $head;
        my ($method, $path) = split / /, $line;
        my %headers = map { /^([^:]+):\s*(.*)$/ ? (lc $1, $2) : () } @lines;
        my $length = $headers{'content-length'} || 0;
        last if length($client->{in}) < $at + $length;
        my $body = substr $client->{in}, $at, $length;
        substr($client->{in}, 0, $at + $length) = '';
        my %request = (method => $method, path => $path, headers => \%headers, at => time,
            id => $client->{id});
        $request{peer} = $client->{socket}->peer_certificate('subject') . ''
            if $self->{client_ca};
        my $rule = JSON::PP->new->latin1->decode(NanoMDM::PKI::slurp($self->{rules}));
        if (defined $rule->{match} && $body !~ /$rule->{match}/
            && (decode_base64($body =~ /"raw_payload":"([^"]*)/ ? $1 : '') !~ /$rule->{match}/)) {
            $rule = { status => 200 };
        }
        $request{answer} = $rule->{status};
        $client->{tunnel} = $method eq 'CONNECT' && $rule->{status} == 200;
        open my $fh, '>>', $self->{record} or die $!;
        syswrite $fh, JSON::PP->new->canonical->encode(\%request) . "\t" . encode_base64($body, '') . "\n";
        close $fh;
        push @answers, [time + ($rule->{delay} || 0), $client, $rule];
    }
    return @answers;
}

# Whether the connection goes on.
sub _reply {
    my ($self, $client, $rule) = @_;
    my $socket = $client->{socket};
    $socket->blocking(1);
    if (delete $client->{tunnel}) {
        return _send($socket, "HTTP/1.1 200 Through\r\n\r\n") && !!$self->_tls($socket);
    }
    if (defined $rule->{raw}) {
        return _send($socket, $rule->{raw}) && defined $rule->{piece};
    }
    my $body = $rule->{body} // '';
    my $length = $rule->{size} // length $body;
    my @headers = @{ $rule->{headers} || [] };
    my $text = "HTTP/1.1 $rule->{status} Said\r\n";
    $text .= "Content-Length: $length\r\n" unless $rule->{status} == 204;
    while (@headers) { my ($name, $value) = splice @headers, 0, 2; $text .= "$name: $value\r\n" }
    _send($socket, "$text\r\n$body") or return 0;
    if ($rule->{size}) {
        my $piece = 'x' x 65536;
        for (my $left = $length ; $left > 0 ; $left -= 65536) {
            _send($socket, $left < 65536 ? substr $piece, 0, $left : $piece) or return 0;
        }
    }
    return 1;
}

sub _send {
    my ($socket, $text) = @_;
    for (my $at = 0 ; $at < length $text ;) {
        my $n = syswrite $socket, $text, length($text) - $at, $at;
        return 0 unless $n;
        $at += $n;
    }
    return 1;
}

END {
    my $status = $?;
    for (@started) { $_->down if ($_->{owner} // 0) == $$ }
    $? = $status;
}

1;
