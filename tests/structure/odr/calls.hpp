// SPDX-License-Identifier: MIT
// Two files of one program, one compiled by g++ and one by clang, define one of these each.
#pragma once

double calls_of_first();
double calls_of_second();
