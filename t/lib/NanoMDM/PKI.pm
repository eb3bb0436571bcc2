# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# The test PKI, made with the openssl command: a device authority, its intermediate, another
# authority, a server certificate and another server's, and device certificates that are good or bad
# in one way each. Identities are files NAME.pem and NAME.key in one directory.

package NanoMDM::PKI;

use strict;
use warnings FATAL => 'all';

use IPC::Open3 ();
use Symbol     ();

# All certificates, in the order in which they can be made.
#   issuer      whose key signs; absent for self-signed ones
#   key         rsa, ec (P-256), ec384; or the name of an identity whose key is used again
#   ext         section of extensions below
#   subject     default /CN=NAME; start and end are ASN.1 times
my @certificates = (
    [ca            => { key => 'rsa', ext => 'authority', subject => '/O=Test/CN=Device CA' }],
    [other_ca      => { key => 'ec',  ext => 'authority', subject => '/O=Test/CN=Another CA' }],
    [intermediate  => { key => 'ec',  ext => 'authority', issuer => 'ca' }],
    [server        => { key => 'ec',  ext => 'server', issuer => 'other_ca', subject => '/CN=localhost' }],
    [elsewhere     => { key => 'ec',  ext => 'elsewhere', issuer => 'other_ca' }],
    # good ones
    [rsa           => { key => 'rsa', ext => 'client', issuer => 'ca' }],
    [ec            => { key => 'ec',  ext => 'client', issuer => 'ca' }],
    [ec384         => { key => 'ec384', ext => 'client', issuer => 'ca' }],
    [no_subject    => { key => 'rsa', ext => 'client', issuer => 'ca', subject => '/' }],
    [no_eku        => { key => 'ec',  ext => 'bare',   issuer => 'ca' }],
    [any_eku       => { key => 'ec',  ext => 'any',    issuer => 'ca' }],
    [odd_usage     => { key => 'ec',  ext => 'odd',    issuer => 'ca' }],
    [via           => { key => 'ec',  ext => 'client', issuer => 'intermediate' }],
    # bad ones
    [wrong_eku     => { key => 'ec',  ext => 'server', issuer => 'ca' }],
    [expired       => { key => 'ec',  ext => 'client', issuer => 'ca',
                        start => '20200101000000Z', end => '20210101000000Z' }],
    [not_yet       => { key => 'ec',  ext => 'client', issuer => 'ca',
                        start => '20490101000000Z', end => '20500101000000Z' }],
    [other         => { key => 'ec',  ext => 'client', issuer => 'other_ca' }],
    [self_signed   => { key => 'ec',  ext => 'client' }],
);

my $config = <<'END';
[req]
distinguished_name = dn
[dn]
[ca]
default_ca = default
[default]
new_certs_dir = .
database = index
serial = serial
default_md = sha256
default_days = 3650
policy = policy
unique_subject = no
email_in_dn = no
rand_serial = yes
[policy]
organizationName = optional
commonName = optional
userId = optional
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[client]
basicConstraints = CA:FALSE
keyUsage = digitalSignature
extendedKeyUsage = clientAuth
[server]
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost,IP:127.0.0.1
[elsewhere]
basicConstraints = CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:elsewhere
[bare]
basicConstraints = CA:FALSE
[any]
extendedKeyUsage = anyExtendedKeyUsage
[odd]
keyUsage = keyEncipherment
extendedKeyUsage = clientAuth
END

my %key_options = (
    rsa   => [qw(-algorithm RSA -pkeyopt rsa_keygen_bits:2048)],
    ec    => [qw(-algorithm EC -pkeyopt ec_paramgen_curve:P-256)],
    ec384 => [qw(-algorithm EC -pkeyopt ec_paramgen_curve:P-384)],
);

# The PKI in a directory, which need not exist before generate().
sub new {
    my ($class, $dir) = @_;
    return bless { dir => $dir }, $class;
}

sub path { my ($self, $name) = @_; return "$self->{dir}/$name" }
sub cert { my ($self, $name) = @_; return "$self->{dir}/$name.pem" }
sub key  { my ($self, $name) = @_; return "$self->{dir}/$name.key" }

# Run openssl; input is a string, the result its standard output. Dies with its words.
sub openssl {
    my ($input, @args) = @_;
    my $err = Symbol::gensym();
    my $pid = IPC::Open3::open3(my $in, my $out, $err, 'openssl', @args);
    binmode $_ for $in, $out;
    local $SIG{PIPE} = 'IGNORE';
    print {$in} $input if defined $input;
    close $in;
    local $/;
    my $stdout = <$out>;
    my $stderr = <$err>;
    waitpid $pid, 0;
    die "openssl @args: $stderr" if $?;
    return $stdout;
}

sub slurp {
    my ($name) = @_;
    open my $fh, '<:raw', $name or die "$name: $!";
    local $/;
    return scalar <$fh>;
}

sub spew {
    my ($name, $text) = @_;
    open my $fh, '>:raw', $name or die "$name: $!";
    print {$fh} $text;
    close $fh or die "$name: $!";
    return;
}

sub generate {
    my ($self) = @_;
    mkdir $self->{dir}, 0755 or die "$self->{dir}: $!";
    spew($self->path('openssl.cnf'), $config);
    $self->issue($_->[0], %{ $_->[1] }) for @certificates;
    spew($self->path('ca-and-intermediate.pem'),
        slurp($self->cert('ca')) . slurp($self->cert('intermediate')));
    return $self;
}

# Make the identity NAME (options: above) and return its name.
sub issue {
    my ($self, $name, %o) = @_;
    my ($cert, $key) = ($self->cert($name), $self->key($name));
    my $kind = $o{key} || 'ec';
    if ($key_options{$kind}) {
        openssl(undef, 'genpkey', @{ $key_options{$kind} }, '-out', $key);
    }
    else {
        spew($key, slurp($self->key($kind)));
    }
    my @request = ('req', '-config', $self->path('openssl.cnf'), '-new', '-key', $key, '-sha256',
        '-subj', $o{subject} || "/CN=$name");
    my @ext = ('-extensions', $o{ext} || 'client');
    my $issuer = $o{issuer};
    if ($o{start}) {
        spew("$cert.csr", openssl(undef, @request));
        local $ENV{OPENSSL_CONF} = $self->path('openssl.cnf');
        my $dir = $self->{dir};
        (my $in_dir = $config) =~ s/= (\.|index|serial)$/= $dir\/$1/mg;
        spew("$cert.cnf", $in_dir);
        spew("$dir/index", '') unless -e "$dir/index";
        openssl(undef, 'ca', '-batch', '-notext', '-config', "$cert.cnf", '-in', "$cert.csr",
            '-out', $cert, '-cert', $self->cert($issuer), '-keyfile', $self->key($issuer),
            '-startdate', $o{start}, '-enddate', $o{end}, @ext);
    }
    else {
        openssl(undef, @request, '-x509', '-days', 3650, '-out', $cert, @ext,
            $issuer ? ('-CA', $self->cert($issuer), '-CAkey', $self->key($issuer)) : ());
    }
    return $name;
}

# The certificate as DER.
sub der { my ($self, $name) = @_; return openssl(undef, 'x509', '-in', $self->cert($name), '-outform', 'DER') }

1;
