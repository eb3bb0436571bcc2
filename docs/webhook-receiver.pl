#!/usr/bin/perl
# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# A receiver of webhook events, as an example: verifies the HMAC, leaves out what came before, prints a
# line per event. Perl and nothing else.
#
#   webhook-receiver.pl PORT KEYFILE
#
# It answers 200 only once an event is dealt with: until then, mod_nanomdm sends it again.

use strict;
use warnings;

use Digest::SHA      qw(hmac_sha256);
use IO::Socket::INET ();
use JSON::PP         qw(decode_json);
use MIME::Base64     qw(decode_base64 encode_base64);

@ARGV == 2 or die "usage: $0 PORT KEYFILE\n";
my ($port, $file) = @ARGV;
open my $fh, '<', $file or die "$file: $!\n";
chomp(my $key = <$fh> // '');
length $key or die "$file is empty\n";

my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port, Listen => 64,
    ReuseAddr => 1) or die "port $port: $!\n";
$| = 1;
$SIG{PIPE} = 'IGNORE';

my %seen;    # in a real receiver: in its database, in the transaction that deals with the event

# Without looking at bytes one by one, whose time would tell how many were right.
sub equal { my ($x, $y) = map { hmac_sha256($_, $key) } @_; return $x eq $y }

# (headers, body), or nothing if there is no whole request.
sub read_request {
    my ($client) = @_;
    my (%headers, $body);
    my $request = <$client>;
    while (defined(my $line = <$client>)) {
        last if $line =~ /^\r?\n$/;
        $headers{ lc $1 } = $2 if $line =~ /^([^:]+):\s*(.*?)\r?\n$/;
    }
    my ($length) = ($headers{'content-length'} // '') =~ /^(\d{1,8})$/ or return;
    return read($client, $body, $length) == $length ? (\%headers, $body) : ();
}

# The status of the answer.
sub handle {
    my ($headers, $body) = @_;
    my $given = $headers->{'x-hmac-signature'} // '';
    return 403 unless equal($given, encode_base64(hmac_sha256($body, $key), ''));
    my $event = eval { decode_json($body) } or return 400;
    return 200 if $seen{ $event->{event_id} }++;
    my $inner = $event->{acknowledge_event} || $event->{checkin_event} || {};
    printf "%s %s %s%s %d bytes\n", $event->{topic}, $event->{event_id}, $inner->{ids}{id} // '',
        defined $inner->{status} ? " $inner->{status}" : '',
        length decode_base64($inner->{raw_payload} // '');
    return 200;
}

while (1) {
    my $client = $listen->accept or next;
    # One client at a time, with one request that must be here soon, is enough for an example.
    my @request = eval {
        local $SIG{ALRM} = sub { die };
        alarm 5;
        read_request($client);
    };
    alarm 0;
    my $status = @request ? handle(@request) : 400;
    print {$client} "HTTP/1.1 $status Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    close $client;
}
