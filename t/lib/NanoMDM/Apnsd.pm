# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A push service of a suite's own: t/peer/apnsd from the build, on a loopback port that it keeps when
# it is started again.
#
#   my $apns = NanoMDM::Apnsd->new(delay => 50)->start;
#   $apns->config                        # what a configuration needs, to push there
#   $apns->put_certificate($topic)       # by the API: 200
#   NanoMDM::Apnsd::token('410 Unregistered')    # a token, in hex, that is answered so
#   $apns->count($token, 3)              # how often it came; waits a little for the number expected

package NanoMDM::Apnsd;

use strict;
use warnings FATAL => 'all';

use Time::HiRes qw(sleep time);

use NanoMDM::PKI   ();
use NanoMDM::Ports ();
use NanoMDM::Test  ();

my %code = (
    '400 BadDeviceToken'            => '0400',
    '400 DeviceTokenNotForTopic'    => '1400',
    '403 BadCertificate'            => '0403',
    '403 BadCertificateEnvironment' => '1403',
    '404 BadPath'                   => '0404',
    '410 Unregistered'              => '1410',
    '410 Unregistered, long ago'    => '0410',
    '410 ExpiredToken'              => '2410',
    '413 PayloadTooLarge'           => '0413',
    '429 TooManyRequests'           => '1429',
    '500 InternalServerError'       => '1500',
    '503 ServiceUnavailable'        => '1503',
    'silence'                       => 'a003',
);
my ($count, @started) = (0);

# options: delay (ms before each answer), streams (at once, on each connection), goaway (answers on
# each connection), server (the name of another certificate than the right one); start() takes others
sub new {
    my ($class, %o) = @_;
    my $name = NanoMDM::Test::var('scratch') . "/apnsd-$$-" . ++$count;
    return bless { %o, log => "$name.log", said => "$name.said", port => NanoMDM::Ports::free() }, $class;
}

# Returns once it listens.
sub start {
    my ($self, %o) = @_;
    my $pki = NanoMDM::Test::pki();
    my %now = (server => 'server', %$self, %o);
    my @command = (NanoMDM::Test::var('bindir') . '/apnsd', '--port', $self->{port},
        '--cert', $pki->cert($now{server}), '--key', $pki->key($now{server}), '--ca', $pki->cert('ca'),
        '--log', $self->{log}, $now{delay} ? ('--delay', $now{delay}) : (),
        $now{streams} ? ('--max-streams', $now{streams}) : (),
        $now{goaway} ? ('--goaway-after', $now{goaway}) : ());
    NanoMDM::PKI::spew($self->{said}, '');
    $self->{pid} = fork() // die "fork: $!";
    if (!$self->{pid}) {
        require POSIX;
        open STDOUT, '>', $self->{said} or POSIX::_exit(1);
        open STDERR, '>&', \*STDOUT or POSIX::_exit(1);
        { no warnings; exec { $command[0] } @command }
        print "$command[0]: $!";
        close STDOUT;
        POSIX::_exit(1);
    }
    push @started, $self;
    my $end = time + 10;
    my $port;
    until (($port) = NanoMDM::PKI::slurp($self->{said}) =~ /^(\d+)$/m) {
        die 'apnsd does not start: ' . NanoMDM::PKI::slurp($self->{said}) if time > $end;
        sleep 0.02;
    }
    $self->{port} = $port;
    return $self;
}

sub stop {
    my ($self, $signal) = @_;
    my $pid = delete $self->{pid} or return;
    kill $signal || 'TERM', $pid;
    waitpid $pid, 0;
    return;
}

sub config {
    my ($self) = @_;
    return "NanoMDMPushURL https://127.0.0.1:$self->{port}\nNanoMDMPushCAFile \@pki\@/other_ca.pem\n";
}

# A new push certificate for the topic, put in by the API of the current server: the status.
sub put_certificate {
    my ($self, $topic) = @_;
    my $pki  = NanoMDM::Test::pki();
    my $name = $pki->issue('push-' . NanoMDM::Test::uuid(), issuer => 'ca', subject => "/UID=$topic/CN=APSP");
    my $pem  = NanoMDM::PKI::slurp($pki->cert($name)) . NanoMDM::PKI::slurp($pki->key($name));
    return NanoMDM::Test::api(PUT => 'pushcert', $pem)->{status};
}

sub token {
    my ($answer) = @_;
    my $random = join '', map { sprintf '%04x', int rand 65536 } 1 .. 14;
    return "0000abcd$random" if $answer eq '200';
    return 'ffff' . ($code{$answer} // die "no such answer: $answer") . $random;
}

sub count {
    my ($self, $token, $expected) = @_;
    my $end = time + 3;
    while (1) {
        my $n = -e $self->{log} ? () = NanoMDM::PKI::slurp($self->{log}) =~ /\t\Q$token\E\t/g : 0;
        return $n if !defined $expected || $n >= $expected || time > $end;
        sleep 0.05;
    }
}

END {
    my $status = $?;
    for (@started) {
        kill 'TERM', $_->{pid} if $_->{pid};
    }
    $? = $status;
}

1;
