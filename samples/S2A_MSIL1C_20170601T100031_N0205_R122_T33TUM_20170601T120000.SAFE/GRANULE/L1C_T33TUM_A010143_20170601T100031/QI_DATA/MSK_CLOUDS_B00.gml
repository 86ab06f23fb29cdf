<?xml version="1.0" encoding="UTF-8"?>
<eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0" xmlns:gml="http://www.opengis.net/gml/3.2" gml:id="MSK_CLOUDS_B00">
<gml:name>MSK_CLOUDS pixel mask for tile 33TUM band 00</gml:name>
</eop:Mask>
