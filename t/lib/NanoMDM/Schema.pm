# Copyright 2026 The mod_nanomdm authors
# SPDX-License-Identifier: Apache-2.0
#
# Validates JSON by a JSON Schema, as far as docs/webhook.schema.json goes. It dies on a keyword that
# it does not know, so that no part of a schema is taken for tested that is not.
#
#   my $schema = NanoMDM::Schema->new($json);    # its text
#   my @errors = $schema->errors($event);        # of what JSON::PP has decoded: "/ids/type: …"

package NanoMDM::Schema;

use strict;
use warnings FATAL => 'all';

use B        ();
use JSON::PP ();

# What says nothing about a value.
my %annotation = map { ($_ => 1) } qw($schema $defs title description);

sub is_number {
    my ($value) = @_;
    return 0 if ref $value || !defined $value;
    my $flags = B::svref_2object(\$value)->FLAGS;
    return $flags & (B::SVf_IOK | B::SVf_NOK) && !($flags & B::SVf_POK) ? 1 : 0;
}

my %is_type = (
    object  => sub { ref $_[0] eq 'HASH' },
    string  => sub { defined $_[0] && !ref $_[0] && !is_number($_[0]) },
    integer => sub { is_number($_[0]) && $_[0] == int $_[0] },
);

my %is_format = ('date-time' => qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)\z/);
my %is_encoded = (base64 => qr{^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?\z});

# Each keyword with its argument, a value, where that is, and the schema around it: the errors. As the
# standard has it, one that is for another type than the value's says nothing.
my %keyword = (
    type => sub {
        my ($self, $type, $value, $at) = @_;
        return $is_type{$type}->($value) ? () : "$at: no $type";
    },
    const => sub {
        my ($self, $const, $value, $at) = @_;
        return $is_type{string}->($value) && $value eq $const ? () : "$at: not $const";
    },
    enum => sub {
        my ($self, $enum, $value, $at) = @_;
        return $is_type{string}->($value) && grep({ $_ eq $value } @$enum) ? () : "$at: none of @$enum";
    },
    minLength => sub {
        my ($self, $least, $value, $at) = @_;
        return !$is_type{string}->($value) || length $value >= $least ? () : "$at: too short";
    },
    minimum => sub {
        my ($self, $least, $value, $at) = @_;
        return !is_number($value) || $value >= $least ? () : "$at: less than $least";
    },
    format => sub {
        my ($self, $format, $value, $at) = @_;
        return !$is_type{string}->($value) || $value =~ $is_format{$format} ? () : "$at: no $format";
    },
    contentEncoding => sub {    # which the standard leaves open
        my ($self, $encoding, $value, $at) = @_;
        return !$is_type{string}->($value) || $value =~ $is_encoded{$encoding} ? () : "$at: no $encoding";
    },
    required => sub {
        my ($self, $names, $value, $at) = @_;
        return () unless ref $value eq 'HASH';
        return map { "$at: no member $_" } grep { !exists $value->{$_} } @$names;
    },
    properties => sub {
        my ($self, $properties, $value, $at) = @_;
        return () unless ref $value eq 'HASH';
        return map { $self->_errors($properties->{$_}, $value->{$_}, "$at/$_") }
            grep { exists $value->{$_} } sort keys %$properties;
    },
    additionalProperties => sub {
        my ($self, $schema, $value, $at, $around) = @_;
        return () unless ref $value eq 'HASH';
        my @more = grep { !exists $around->{properties}{$_} } sort keys %$value;
        return map { $self->_errors($schema, $value->{$_}, "$at/$_") } @more if ref $schema eq 'HASH';
        return $schema ? () : map { "$at: unknown member $_" } @more;
    },
    oneOf => sub {
        my ($self, $schemas, $value, $at) = @_;
        my @errors = map { [$self->_errors($_, $value, $at)] } @$schemas;
        my $fit    = grep { !@$_ } @errors;
        return $fit == 1 ? () : ("$at: $fit of oneOf fit", map { @$_ } @errors);
    },
    '$ref' => sub {
        my ($self, $ref, $value, $at) = @_;
        return $self->_errors($self->_definition($ref), $value, $at);
    },
);

sub new {
    my ($class, $json) = @_;
    my $self = bless { schema => JSON::PP->new->utf8->decode($json) }, $class;
    $self->_know($self->{schema});
    return $self;
}

sub errors {
    my ($self, $value) = @_;
    return $self->_errors($self->{schema}, $value, '');
}

sub _errors {
    my ($self, $schema, $value, $at) = @_;
    return map { $keyword{$_}->($self, $schema->{$_}, $value, $at, $schema) }
        grep { !$annotation{$_} } sort keys %$schema;
}

sub _definition {
    my ($self, $ref) = @_;
    my ($name) = $ref =~ m{^#/\$defs/(\w+)\z} or die "unknown \$ref: $ref\n";
    return $self->{schema}{'$defs'}{$name} // die "no such definition: $ref\n";
}

# Dies if there is something in a schema that would not be looked at.
sub _know {
    my ($self, $schema) = @_;
    ref $schema eq 'HASH' or die "no schema: $schema\n";
    for my $name (sort keys %$schema) {
        $keyword{$name} || $annotation{$name} or die "unknown keyword: $name\n";
    }
    for (['type', \%is_type], ['format', \%is_format], ['contentEncoding', \%is_encoded]) {
        my ($name, $known) = @$_;
        !exists $schema->{$name} || $known->{ $schema->{$name} } or die "unknown $name: $schema->{$name}\n";
    }
    for my $string (exists $schema->{const} ? $schema->{const} : (), @{ $schema->{enum} || [] }) {
        $is_type{string}->($string) or die "const and enum: only strings\n";
    }
    $self->_definition($schema->{'$ref'}) if exists $schema->{'$ref'};
    my $more = $schema->{additionalProperties};
    $self->_know($_) for values %{ $schema->{properties} || {} }, values %{ $schema->{'$defs'} || {} },
        @{ $schema->{oneOf} || [] }, ref $more eq 'HASH' ? $more : ();
    return;
}

1;
