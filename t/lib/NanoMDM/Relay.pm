# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A relay in front of a server, that can behave as a bad network does.
#
#   my $relay = NanoMDM::Relay->new($server_port);
#   $relay->port;
#   $relay->mode('pass');           # to begin with
#   $relay->mode('silent');         # ends what is connected; takes new connections and says nothing on
#                                   # them, not even after another mode
#   $relay->mode('cut', 60_000);    # ends a connection once the server has sent so many bytes on it
#   $relay->stop;                   # also done at the end

package NanoMDM::Relay;

use strict;
use warnings FATAL => 'all';

use IO::Select       ();
use IO::Socket::INET ();
use POSIX            ();

sub new {
    my ($class, $server_port) = @_;
    my $listen = IO::Socket::INET->new(Listen => 50, LocalAddr => '127.0.0.1', LocalPort => 0)
        or die "no free port: $!";
    pipe my $out, my $in or die "pipe: $!";
    my $pid = fork() // die "fork: $!";
    if (!$pid) {
        close $in;
        _run($listen, $out, $server_port);
        POSIX::_exit(0);
    }
    return bless { port => $listen->sockport, pid => $pid, in => $in, owner => $$ }, $class;
}

sub port { my ($self) = @_; return $self->{port} }

# Returns once it is so, more or less.
sub mode {
    my ($self, @mode) = @_;
    syswrite $self->{in}, "@mode\n";
    select undef, undef, undef, 0.3;
    return;
}

sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;
    return unless $self->{owner} == $$;
    kill 'KILL', $pid;
    waitpid $pid, 0;
    return;
}

sub DESTROY { my ($self) = @_; local $?; $self->stop; return }

sub _run {
    my ($listen, $orders, $server_port) = @_;
    my $select = IO::Select->new($listen, $orders);
    my ($mode, $limit) = ('pass', 0);
    my (%peer, %sent, @silent);
    my $end = sub {
        for my $socket (grep { $_ } $_[0], delete $peer{ $_[0] }) {
            delete $peer{$socket};
            delete $sent{$socket};
            $select->remove($socket);
            close $socket;
        }
    };
    while (1) {
        for my $socket ($select->can_read) {
            if ($socket == $orders) {
                sysread $orders, my $text, 100 or POSIX::_exit(0);
                ($mode, $limit) = split ' ', $text;
                %sent = map { ($_ => 0) } keys %sent;
                if ($mode eq 'silent') {
                    $end->($_) for grep { $peer{$_} } $select->handles;
                }
            } elsif ($socket == $listen) {
                my $client = $listen->accept or next;
                if ($mode eq 'silent') {
                    push @silent, $client;
                    next;
                }
                my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $server_port) or next;
                @peer{ $client, $server } = ($server, $client);
                $sent{$server} = 0;
                $select->add($client, $server);
            } elsif (my $peer = $peer{$socket}) {
                my $read = sysread $socket, my $bytes, 65536;
                $sent{$socket} += $read if $read && exists $sent{$socket};
                if (!$read || $mode eq 'cut' && ($sent{$socket} // 0) > $limit) {
                    $end->($socket);
                    next;
                }
                for (my $done = 0; $done < $read;) {
                    my $wrote = syswrite $peer, $bytes, $read - $done, $done or last;
                    $done += $wrote;
                }
            }
        }
    }
    return;
}

1;
